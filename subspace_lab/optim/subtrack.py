"""SubTrack++ (arXiv 2502.01586): the subspace follows the gradient along geodesics."""

from __future__ import annotations

from subspace_lab.optim.subspace_adam import SubspaceAdam


class SubTrack(SubspaceAdam):
    """Adam in a subspace that tracks: at a refresh it takes a geodesic step down the subspace estimation error.

    The error is ``F(S) = min_A ||S A - G||_F^2`` with derivative ``-2 R A^T``, ``R = G - S A``. With its leading
    singular triplet (s, u, v) of ``2 R A^T`` the step is ``S+ = S + ((cos th - 1) S v + sin th u) v^T``: a rotation
    of one direction of the subspace towards the one that it misses most. ``step_size="exact"`` takes the angle that
    minimizes the error along this geodesic, ``th = atan2(s, |A^T v|^2 - |G^T u|^2) / 2``: nothing to tune, never
    uphill (this is the project's own); a number gives the paper's ``th = step_size s``. Moments are transported and
    the bulk is recovered, which makes SubTrack++ of the first version's SubTrack-Grad. Against `GaLore` a refresh
    costs O(mnr) instead of an SVD, and the subspace cannot change abruptly.

    Args:
        params: Parameters or groups; a group with a ``rank`` is optimized in a subspace, one without is AdamW.
        lr: Learning rate.
        options: ``step_size``, ``recovery_scale``, ``zeta``, ``limiter``, ``transport`` and the shared ones; see
            `Options`.

    State of an m x n matrix (``m <= n``): basis (m, r), two moments (r, n) and one number: ``mr + 2nr + 1`` numbers.
    A step costs two products with the basis; a refresh three more and an r x r eigenproblem.

    Limitations: one direction turns per refresh, so a subspace that has moved in many takes many refreshes to follow.
    The gradient of one step decides, with its noise. The released code departs from the paper: for matrices with more
    rows than columns its tangent is about zero and they are not tracked.
    """

    parts = ("track", "transport", "scaled")
