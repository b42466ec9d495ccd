"""GaLore (arXiv 2403.03507, algorithm 2) and GoLore (arXiv 2410.11289, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from subspace_lab.optim.reference.arrays import Array, Draw, Trajectory, adam, for_wide_matrices, top_left


@for_wide_matrices
def galore(
    W: Array,
    gradients: Sequence[Array],
    *,
    lr: float,
    rank: int,
    update_interval: int,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    scale: float = 0.25,
    like: Sequence[Array] | None = None,
    draw: Draw | None = None,
    random_after: int | None = None,
) -> Trajectory:
    """``W -= lr scale S O``: Adam on ``A = S^T G``, S the top-r left space of every T-th gradient, moments kept.

    Args:
        W: Matrix (m, n).
        gradients: One per step.
        lr: Learning rate.
        rank: r.
        update_interval: T.
        betas: Adam's decay rates.
        eps: Adam's eps.
        weight_decay: Decoupled.
        scale: The paper's alpha.
        like: Bases of every step whose signs to take.
        draw: Standard normal matrix (m, r) of a refresh, for GoLore.
        random_after: GoLore: bases are random after this many steps.

    Returns:
        The matrix after every step.
    """
    m, n = W.shape
    r = min(rank, m)
    M, V, trajectory = np.zeros((r, n)), np.zeros((r, n)), []
    for t, G in enumerate(gradients, start=1):
        if t == 1 or ((t - 1) % update_interval == 0 and r < m):
            if draw is not None and random_after is not None and t > random_after and t > 1:
                S = np.linalg.qr(draw((t - 1) // update_interval))[0]
            else:
                S = top_left(G, r, None if like is None else like[t - 1])
        A = S.T @ G
        M, V, O = adam(A, M, V, t=t, betas=betas, eps=eps)
        W = (1 - lr * weight_decay) * W - lr * scale * (S @ O)
        trajectory.append(W)
    return trajectory


def golore(W: Array, gradients: Sequence[Array], *, draw: Draw, random_after: int, **settings: object) -> Trajectory:
    """GaLore until ``random_after`` steps were taken, then the same with uniformly random bases.

    Args:
        W: Matrix (m, n).
        gradients: One per step.
        draw: Standard normal matrix (m, r) of a refresh.
        random_after: Steps of GaLore.
        **settings: As of `galore`.

    Returns:
        The matrix after every step.
    """
    return galore(W, gradients, draw=draw, random_after=random_after, **settings)
