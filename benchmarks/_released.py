"""Released code, literally, as it is without the parts that only move numbers around.

Legend: as in `subspace_lab.optim.reference`; matrices are oriented so that they are wide. The basis of every step is
taken from our run (``like``), so that signs and random draws are the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from subspace_lab.optim.reference.arrays import Array, Trajectory, for_wide_matrices
from subspace_lab.optim.reference.online import pca_gradient

LIMIT, ADDED = 1.01, 1e-8


def moments(
    A: Array, M: Array, V: Array, *, t: int, betas: tuple[float, float], eps: float
) -> tuple[Array, Array, Array, float]:
    """Adam with eps before the bias correction, which is a factor on the whole step: M, V, direction, factor."""
    b1, b2 = betas
    M, V = b1 * M + (1 - b1) * A, b2 * V + (1 - b2) * A**2
    return M, V, M / (np.sqrt(V) + eps), math.sqrt(1 - b2**t) / (1 - b1**t)


def recovered(R: Array, O: Array, A: Array, last: float | None) -> tuple[Array, float]:
    """The residual with its columns scaled and its norm limited, and the norm."""
    L = R * (np.linalg.norm(O, axis=0) / (np.linalg.norm(A, axis=0) + ADDED))
    norm = float(np.linalg.norm(L))
    factor = 1.0 if last is None else max(norm / (last + ADDED), LIMIT) / LIMIT
    return L / factor, norm / factor


@for_wide_matrices
def fira(
    W: Array,
    gradients: Sequence[Array],
    *,
    lr: float,
    rank: int,
    like: Sequence[Array],
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    alpha: float = 1.0,
) -> Trajectory:
    """Fira by its authors (xichen-fy/Fira): alpha scales the core and what is subtracted of it, not the residual."""
    M, V, last, trajectory = np.zeros((rank, W.shape[1])), np.zeros((rank, W.shape[1])), None, []
    for t, (G, S) in enumerate(zip(gradients, like, strict=True), start=1):
        A = S.T @ G
        M, V, O, correction = moments(A, M, V, t=t, betas=betas, eps=eps)
        L, last = recovered(G - alpha * S @ A, O, A, last)
        W = (1 - lr * weight_decay) * (W - lr * correction * (alpha * S @ O + L))
        trajectory.append(W)
    return trajectory


@for_wide_matrices
def golore(
    W: Array,
    gradients: Sequence[Array],
    *,
    lr: float,
    rank: int,
    like: Sequence[Array],
    update_interval: int,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    scale: float = 1.0,
    loses_moment: bool = True,
) -> Trajectory:
    """GoLore by its authors (pkumelon/Golore): at a refresh the moment of that step is not kept.

    The rotated first moment takes the gradient in and makes the step; the state keeps the moment of the step before, in
    the old basis.
    """
    M, V, trajectory = np.zeros((rank, W.shape[1])), np.zeros((rank, W.shape[1])), []
    for t, (G, S) in enumerate(zip(gradients, like, strict=True), start=1):
        kept = M
        is_refresh = t > 1 and (t - 1) % update_interval == 0
        if is_refresh and loses_moment:
            M = S.T @ (like[t - 2] @ M)
        M, V, O, correction = moments(S.T @ G, M, V, t=t, betas=betas, eps=eps)
        M = kept if is_refresh and loses_moment else M
        W = (1 - lr * weight_decay) * (W - lr * correction * scale * S @ O)
        trajectory.append(W)
    return trajectory


@for_wide_matrices
def online_subspace_descent(
    W: Array,
    gradients: Sequence[Array],
    *,
    lr: float,
    rank: int,
    like: Sequence[Array],
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    scale: float = 1.0,
    basis_lr: float = 1 / 200,
    basis_decay: float = 0.01,
) -> Trajectory:
    """Online Subspace Descent by its authors (kyleliang919/Online-Subspace-Descent).

    The basis follows torch's AdamW, whose weight decay is 0.01, with the learning rate ``1 / update_proj_gap``; there
    is no penalty. Only the first basis is taken from our run.
    """
    P, (m, n) = like[0], W.shape
    M, V, MP, VP = np.zeros((rank, n)), np.zeros((rank, n)), np.zeros((m, rank)), np.zeros((m, rank))
    trajectory = []
    for t, G in enumerate(gradients, start=1):
        M, V, O, correction = moments(P.T @ G, M, V, t=t, betas=betas, eps=eps)
        W = (1 - lr * weight_decay) * (W - lr * correction * scale * P @ O)
        if t > 1:
            MP, VP = 0.9 * MP + 0.1 * (slope := pca_gradient(P, G, 0.0)), 0.999 * VP + 0.001 * slope**2
            direction = (MP / (1 - 0.9 ** (t - 1))) / (np.sqrt(VP / (1 - 0.999 ** (t - 1))) + 1e-8)
            P = (1 - basis_lr * basis_decay) * P - basis_lr * direction
        trajectory.append(W)
    return trajectory


def subtrack(
    W: Array,
    gradients: Sequence[Array],
    *,
    lr: float,
    rank: int,
    first: Array,
    update_interval: int,
    step_size: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    scale: float = 1.0,
    transports: bool = False,
    ascends: bool = False,
) -> Trajectory:
    """SubTrack++ by its authors (criticalml-uw/SubTrack), for wide matrices and for others as they are treated there.

    Args:
        W: Matrix (rows, cols).
        gradients: One per step.
        lr: Learning rate.
        rank: r.
        first: Orthonormal basis of the first step, of the rows of a wide matrix, of the columns of any other.
        update_interval: T.
        step_size: Of the geodesic.
        betas: Adam's decay rates.
        eps: Adam's eps.
        scale: On the core, and on what is subtracted of it.
        transports: Whether moments are carried over ("adaptive optimizer").
        ascends: The sign of the geodesic until November 2025.

    Returns:
        The matrix after every step.
    """
    if is_wide := W.shape[0] < W.shape[1]:
        B = first.T  # (r, m): the basis is kept by rows for the other orientation, so here, too
    else:
        W, gradients, B = W.T, [G.T for G in gradients], first.T
    M, V, last, trajectory = np.zeros((rank, W.shape[1])), np.zeros((rank, W.shape[1])), None, []
    start, b2 = B, betas[1]
    for t, G in enumerate(gradients, start=1):
        if t > 1 and (t - 1) % update_interval == 0:
            B = _tracked(B, G, -step_size if ascends else step_size, is_wide=is_wide)
        A = B @ G
        M, V, O, correction = moments(A, M, V, t=t, betas=betas, eps=eps)
        if transports and t % update_interval == 0:  # after the direction of this step, a step before the basis moves
            C = B @ start.T
            V = (1 - b2) * np.abs(C**2 @ (V - M**2) + (C @ M) ** 2)
            M = C @ M
        L, last = recovered(G - scale * B.T @ A, O, A, last)
        W = W - lr * correction * (scale * B.T @ O + L)
        trajectory.append(W if is_wide else W.T)
    return trajectory


def _tracked(B: Array, G: Array, step_size: float, *, is_wide: bool) -> Array:
    """The geodesic step of a basis kept by rows (r, m), of G (m, n).

    The tangent of a wide matrix is ``(I - S S^T) D``. Otherwise the basis is kept by rows there, and the tangent is
    ``(I - B B^T) D`` with the r x r projector of these rows, which is zero but for rounding.
    """
    A = B @ G
    D = -2 * (G - B.T @ A) @ A.T  # (m, r)
    if is_wide:
        tangent = D - B.T @ (B @ D)
        U, s, Vt = np.linalg.svd(tangent, full_matrices=False)
        u, v = U[:, :1], Vt[:1].T
        S = B.T @ (v @ v.T) * math.cos(step_size * s[0]) - u @ v.T * math.sin(step_size * s[0])
        return (S + B.T - B.T @ (v @ v.T)).T
    tangent = (np.eye(len(B)) - B @ B.T) @ D.T  # (r, m)
    U, s, Vt = np.linalg.svd(tangent, full_matrices=False)
    u, v = U[:, :1], Vt[:1].T
    turned = B @ (v @ v.T) * math.cos(step_size * s[0]) - u @ v.T * math.sin(step_size * s[0])
    return turned + B - B @ (v @ v.T)
