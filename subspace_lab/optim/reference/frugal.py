"""FRUGAL (arXiv 2411.07837, algorithm 1 with Adam as the state-full and signSGD as the state-free method)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from subspace_lab.optim.reference.arrays import Array, Trajectory, adam, for_wide_matrices


@for_wide_matrices
def frugal(
    W: Array,
    gradients: Sequence[Array],
    *,
    lr: float,
    rank: int,
    rows: Callable[[int], Sequence[int]],
    update_interval: int = 200,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    scale: float = 1.0,
    recovery_scale: float = 1.0,
) -> Trajectory:
    """Adam on r random rows, starting anew whenever other rows are chosen; the sign of the gradient on all other rows.

    Args:
        W: Matrix (m, n).
        gradients: One per step.
        lr: Learning rate.
        rank: Number of rows with a state.
        rows: The rows of a refresh.
        update_interval: T.
        betas: Adam's decay rates.
        eps: Adam's eps.
        weight_decay: Decoupled.
        scale: On the whole step.
        recovery_scale: Learning rate of the state-free part over that of the state-full one.

    Returns:
        The matrix after every step.
    """
    m, n = W.shape
    r, since, trajectory = min(rank, m), 0, []
    for t, G in enumerate(gradients, start=1):
        if t == 1 or ((t - 1) % update_interval == 0 and r < m):
            since = 0
            full = np.isin(np.arange(m), rows((t - 1) // update_interval))  # (m,)
            M, V = np.zeros((r, n)), np.zeros((r, n))
        since += 1
        M, V, O = adam(G[full], M, V, t=since, betas=betas, eps=eps)
        U = recovery_scale * np.sign(G)
        U[full] = O
        W = (1 - lr * weight_decay) * W - lr * scale * U
        trajectory.append(W)
    return trajectory
