"""GrassWalk and GrassJump (arXiv 2510.01878, algorithm 1): random bases, projection-aware moments, recovery scaling."""

from __future__ import annotations

from collections.abc import Sequence

from subspace_lab.optim.reference.arrays import Array, Draw, Trajectory
from subspace_lab.optim.reference.bases import jump, walk
from subspace_lab.optim.reference.cells import subspace_adam


def grasswalk(
    W: Array,
    gradients: Sequence[Array],
    *,
    rank: int,
    draw: Draw,
    walk_step: float = 0.1,
    like: Sequence[Array] | None = None,
    **settings: object,
) -> Trajectory:
    """Random walk on the Grassmannian from the top-r space of the first gradient.

    Args:
        W: Matrix (m, n).
        gradients: One per step.
        rank: r.
        draw: Standard normal matrix (m, r) of a refresh.
        walk_step: Root-mean-square principal angle of a move, radians.
        like: Bases of every step whose signs to take, of which only the first is an SVD.
        **settings: As of `subspace_adam`.

    Returns:
        The matrix after every step.
    """
    rule = walk(min(rank, *W.shape), draw, walk_step, like)
    return subspace_adam(W, gradients, rule=rule, rank=rank, **settings)


def grassjump(W: Array, gradients: Sequence[Array], *, rank: int, draw: Draw, **settings: object) -> Trajectory:
    """Independent uniformly random bases.

    Args:
        W: Matrix (m, n).
        gradients: One per step.
        rank: r.
        draw: Standard normal matrix (m, r) of a refresh.
        **settings: As of `subspace_adam`.

    Returns:
        The matrix after every step.
    """
    return subspace_adam(W, gradients, rule=jump(draw), rank=rank, **settings)
