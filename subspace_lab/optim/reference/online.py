"""Online Subspace Descent (arXiv 2408.12857, algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from subspace_lab.optim.reference.arrays import Array, Trajectory, adam, for_wide_matrices, top_left


def pca_gradient(P: Array, G: Array, orthogonality: float) -> Array:
    """Derivative in P of ``||P P^T g - g||^2 + orthogonality ||P^T P - I||^2`` with ``g = G / ||G||``."""
    C = G @ G.T / np.linalg.norm(G) ** 2
    X = P @ P.T
    gradient: Array = 2 * (C @ X + X @ C - 2 * C) @ P + 4 * orthogonality * P @ (P.T @ P - np.eye(P.shape[1]))
    return gradient


@for_wide_matrices
def online_subspace_descent(
    W: Array,
    gradients: Sequence[Array],
    *,
    lr: float,
    rank: int,
    update_interval: int = 1,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    scale: float = 1.0,
    basis_lr_scale: float = 5.0,
    orthogonality: float = 0.1,
    like: Sequence[Array] | None = None,
) -> Trajectory:
    """``W -= lr scale P O`` with Adam on ``P^T G``; then P takes an Adam step of its own down the online PCA loss.

    Args:
        W: Matrix (m, n).
        gradients: One per step.
        lr: Learning rate.
        rank: r.
        update_interval: Steps between two moves of P; 1 in the paper.
        betas: Adam's decay rates, of both.
        eps: Adam's eps, of both.
        weight_decay: Decoupled, of W.
        scale: On the whole step.
        basis_lr_scale: Learning rate of P over that of W.
        orthogonality: The paper's lambda.
        like: Bases of every step whose signs to take, of which only the first is an SVD.

    Returns:
        The matrix after every step.
    """
    m, n = W.shape
    r = min(rank, m)
    M, V, MP, VP = np.zeros((r, n)), np.zeros((r, n)), np.zeros((m, r)), np.zeros((m, r))
    moves, trajectory = 0, []
    for t, G in enumerate(gradients, start=1):
        if t == 1:
            P = top_left(G, r, None if like is None else like[0])
        M, V, O = adam(P.T @ G, M, V, t=t, betas=betas, eps=eps)
        W = (1 - lr * weight_decay) * W - lr * scale * (P @ O)
        if t % update_interval == 0 and t > 1 and r < m and G.any():  # at t = 1 P is where the loss is stationary
            moves += 1
            MP, VP, OP = adam(pca_gradient(P, G, orthogonality), MP, VP, t=moves, betas=betas, eps=eps)
            P = P - basis_lr_scale * lr * OP
        trajectory.append(W)
    return trajectory
