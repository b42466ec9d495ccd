"""APOLLO and APOLLO-Mini (arXiv 2412.05270, algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from subspace_lab.optim.reference.arrays import (
    MACHINE_EPS,
    Array,
    Draw,
    Trajectory,
    adam,
    bias_correction,
    column_factors,
    for_wide_matrices,
    limited,
)


@for_wide_matrices
def apollo(
    W: Array,
    gradients: Sequence[Array],
    *,
    lr: float,
    rank: int,
    draw: Draw,
    update_interval: int = 200,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    scale: float = 1.0,
    zeta: float | None = 1.01,
    limiter: Literal["after_bias_correction", "before_bias_correction"] = "after_bias_correction",
    scaling: Literal["channel", "tensor"] = "channel",
    machine_eps: float = MACHINE_EPS,
) -> Trajectory:
    """``W -= lr scale G diag(s)``: the gradient itself, its columns scaled as Adam scales those of a random sketch.

    The sketch is ``A = P G``, P Gaussian with variance 1/r; ``s_j = |O_:j| / |A_:j|``, or ``|O| / |A|`` for the whole
    tensor (Mini: rank 1, alpha sqrt(128)).

    Args:
        W: Matrix (m, n).
        gradients: One per step.
        lr: Learning rate.
        rank: r.
        draw: ``P^T sqrt(r)`` (m, r) of a refresh.
        update_interval: T.
        betas: Adam's decay rates.
        eps: Adam's eps.
        weight_decay: Decoupled.
        scale: The paper's alpha.
        zeta: The limiter's gamma, or None.
        limiter: Whether norms are compared after or before bias correction, which multiplies all of a step alike.
        scaling: One factor per column, or one for the whole tensor.
        machine_eps: Rounding of the arithmetic that is compared.

    Returns:
        The matrix after every step.
    """
    m, n = W.shape
    r = min(rank, m)
    M, V, last_norm, trajectory = np.zeros((r, n)), np.zeros((r, n)), 0.0, []
    for t, G in enumerate(gradients, start=1):
        if (t - 1) % update_interval == 0:
            P = draw((t - 1) // update_interval).T / math.sqrt(r)
        A = P @ G
        M, V, O = adam(A, M, V, t=t, betas=betas, eps=eps)
        if scaling == "tensor":
            s = np.full(n, np.linalg.norm(O) / np.linalg.norm(A) if A.any() else 0.0)
        else:
            s = column_factors(O, A, G, machine_eps)
        c = bias_correction(t, betas) if limiter == "before_bias_correction" else 1.0
        L, last_norm = limited(G * s / c, last_norm, zeta)
        W = (1 - lr * weight_decay) * W - lr * scale * c * L
        trajectory.append(W)
    return trajectory
