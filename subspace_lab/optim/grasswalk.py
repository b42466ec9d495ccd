"""GrassWalk (arXiv 2510.01878): a random walk of the subspace."""

from __future__ import annotations

from subspace_lab.optim.subspace_adam import SubspaceAdam


class GrassWalk(SubspaceAdam):
    """Adam in a subspace that walks: every ``update_interval`` steps it turns by a random geodesic step.

    Start at the top-r left space of the first gradient. At a refresh draw ``X ~ N(0, 1)^(m x r)``, take its horizontal
    part ``D = X - S (S^T X)`` with ``D^T D = V E^2 V^T``, and move along the geodesic

        S+ = S V cos(eta E) V^T + D V (sin(eta E) / E) V^T,   eta = walk_step sqrt(r) / ||D||_F,

    so that ``walk_step`` is the root-mean-square principal angle of one move in radians, the same in layers of any
    shape. Moments are transported and the bulk is recovered, as in `SubTrack`. Against `SubTrack` and `GaLore` it needs
    no look at the gradient to choose its basis. The paper's argument for that is its claim that the landscape of
    subspaces is nearly flat, so that a random neighbour is as good; what this project measured does not support the
    claim (``docs/papers.md``, W4). Against `GrassJump` it forgets slowly, so that the moments keep their meaning.

    Args:
        params: Parameters or groups; a group with a ``rank`` is optimized in a subspace, one without is AdamW.
        lr: Learning rate.
        options: ``walk_step``, ``recovery_scale``, ``zeta``, ``limiter``, ``transport`` and the shared ones; see
            `Options`.

    State of an m x n matrix (``m <= n``): basis (m, r), two moments (r, n) and one number: ``mr + 2nr + 1`` numbers.
    A step costs two products with the basis; a refresh some r x r algebra and a few products of (m, r).

    Limitations: independent of any released code (none is known). The published absolute value in the transport can
    give single steps of many times the usual length after a large move; ``transport="clamped"`` bounds them. The
    limiter starts at the residual of the own-space basis, the smallest there is, and holds recovery down for long;
    ``zeta=None`` switches it off.
    """

    parts = ("walk", "transport", "scaled")
