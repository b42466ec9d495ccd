"""GrassJump (arXiv 2510.01878): a fresh random subspace at every refresh."""

from __future__ import annotations

from subspace_lab.optim.subspace_adam import SubspaceAdam


class GrassJump(SubspaceAdam):
    """Adam in a subspace that jumps: every ``update_interval`` steps a uniformly random basis is drawn.

    The basis is Q of the QR of a Gaussian matrix, the first one too: uniform on the Grassmannian, since a Gaussian
    knows no direction. It captures r/m of the gradient's energy on average, the rest reaches the weights by
    recovery scaling, and over many refreshes every direction has its turn. Against `GrassWalk` it explores faster
    and keeps less: after a jump, old and new basis overlap by r/m and the transported moments shrink accordingly.

    Args:
        params: Parameters or groups; a group with a ``rank`` is optimized in a subspace, one without is AdamW.
        lr: Learning rate.
        options: ``recovery_scale``, ``zeta``, ``limiter``, ``transport`` and the shared ones; see `Options`.

    State of an m x n matrix (``m <= n``): basis (m, r), two moments (r, n) and one number: ``mr + 2nr + 1`` numbers.
    A step costs two products with the basis; a refresh one QR of (m, r) and the transport.

    Limitations: independent of any released code (none is known). Without recovery it learns a share r/m of the
    directions between refreshes. The published absolute value in the transport gives steps of many times the usual
    length after a jump; ``transport="clamped"`` bounds them.
    """

    parts = ("jump", "transport", "scaled")
