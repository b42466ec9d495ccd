"""SubTrack++ (arXiv 2502.01586 v3, algorithm 1): Grassmannian tracking, projection-aware moments, recovery scaling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from subspace_lab.optim.reference.arrays import MACHINE_EPS, Array, Trajectory
from subspace_lab.optim.reference.bases import track
from subspace_lab.optim.reference.cells import subspace_adam


def subtrack(
    W: Array,
    gradients: Sequence[Array],
    *,
    rank: int,
    step_size: float | Literal["exact"] = "exact",
    like: Sequence[Array] | None = None,
    machine_eps: float = MACHINE_EPS,
    **settings: object,
) -> Trajectory:
    """Rank-1 geodesic steps down the subspace estimation error, from the top-r space of the first gradient.

    Args:
        W: Matrix (m, n).
        gradients: One per step.
        rank: r.
        step_size: The paper's, the angle over the singular value; or "exact".
        like: Bases of every step whose signs to take, of which only the first is an SVD.
        machine_eps: Rounding of the arithmetic that is compared.
        **settings: As of `subspace_adam`.

    Returns:
        The matrix after every step.
    """
    rule = track(min(rank, *W.shape), step_size, like, machine_eps)
    return subspace_adam(W, gradients, rule=rule, rank=rank, machine_eps=machine_eps, **settings)
