"""AdamW, what parameters without a rank get (arXiv 1711.05101, algorithm 2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from subspace_lab.optim.reference.arrays import Array, Trajectory, adam


def adamw(
    W: Array,
    gradients: Sequence[Array],
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> Trajectory:
    """Full-rank AdamW; every gradient counts, zero or not."""
    M, V, trajectory = np.zeros_like(W), np.zeros_like(W), []
    for t, G in enumerate(gradients, start=1):
        M, V, O = adam(G, M, V, t=t, betas=betas, eps=eps)
        W = (1 - lr * weight_decay) * W - lr * O
        trajectory.append(W)
    return trajectory
