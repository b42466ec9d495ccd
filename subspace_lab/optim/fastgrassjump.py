"""FastGrassJump: GrassJump (arXiv 2510.01878) with a basis that costs no memory, no QR and no dense product."""

from __future__ import annotations

from subspace_lab.optim.subspace_adam import SubspaceAdam


class FastGrassJump(SubspaceAdam):
    """Adam in a subspace that jumps: every ``update_interval`` steps r random cosines with random signs are drawn.

    The basis is ``S = D C^T P``: random signs D, the orthonormal cosine transform C, and r of its m cosines, P. It is a
    subsampled randomized transform, known from sketching (Ailon and Chazelle 2006), in the place of `GrassJump`'s
    uniform basis; `DCTAdamW` (arXiv 2505.17967) came to cosines before, choosing those of most energy. What is new is
    the combination: a random basis that is nowhere stored, moments that are transported and a bulk that is recovered.
    Against `GrassJump` a step costs ``O(mn log m)`` instead of ``O(mnr)``, at any rank; a refresh has no QR; the basis
    is orthonormal to rounding for ever. It holds r/m of the gradient's energy on average, as a uniform one does.

    Args:
        params: Parameters or groups; a group with a ``rank`` is optimized in a subspace, one without is AdamW.
        lr: Learning rate.
        options: ``recovery_scale``, ``zeta``, ``limiter``, ``transport`` and the shared ones; see `Options`.

    State of an m x n matrix (``m <= n``): two moments (r, n) and one number: ``2nr + 1`` numbers; no basis.
    A step costs two transforms of n columns of length m; a refresh r transforms more and two products (r, r) with
    (r, n), by which the moments are carried over.

    Limitations: where r is small the products with a dense basis are faster than transforms. Square matrices are
    projected from the right, where `GrassJump` projects from the left. Sharded along m, every process transforms whole
    columns. What `GrassJump` says of transport after jumps holds here, too.
    """

    parts = ("trig", "transport", "scaled")
