"""Random cosines as bases, this project's own, with the moments and the bulk of arXiv 2510.01878: FastGrass methods."""

from __future__ import annotations

from collections.abc import Sequence

from subspace_lab.optim.reference.arrays import Array, Draw, Trajectory
from subspace_lab.optim.reference.bases import trig, trig_walk
from subspace_lab.optim.reference.cells import subspace_adam


def fastgrassjump(W: Array, gradients: Sequence[Array], *, rank: int, draw: Draw, **settings: object) -> Trajectory:
    """New random cosines with new signs at every refresh, as explicit matrices.

    Args:
        W: Matrix (m, n).
        gradients: One per step.
        rank: r.
        draw: Standard normal matrix (m, 2) of a refresh.
        **settings: As of `subspace_adam`.

    Returns:
        The matrix after every step.
    """
    return subspace_adam(W, gradients, rule=trig(min(rank, *W.shape), draw), rank=rank, **settings)


def fastgrasswalk(
    W: Array, gradients: Sequence[Array], *, rank: int, draw: Draw, swaps: int = 1, **settings: object
) -> Trajectory:
    """Random cosines of which some are swapped at a refresh, as explicit matrices.

    Args:
        W: Matrix (m, n).
        gradients: One per step.
        rank: r.
        draw: Standard normal matrix (m, 2) of a refresh.
        swaps: How many are swapped.
        **settings: As of `subspace_adam`.

    Returns:
        The matrix after every step.
    """
    return subspace_adam(W, gradients, rule=trig_walk(min(rank, *W.shape), draw, swaps), rank=rank, **settings)
