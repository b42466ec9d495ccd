"""What defenses do to one matrix, as functions of tensors.

Legend: ``V = W_aligned - W_base (m, n)`` what alignment changed; ``D = W_tuned - W_aligned (m, n)`` what tuning did;
``C (m, m)`` a map onto what alignment changed; ``U_k (m, k)`` the first left singular vectors; ``H (n, n)`` the second
moment of a layer's inputs. Rows are outputs, columns are inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from subspace_lab._checks import check_choice

Projector = Literal["frobenius", "topk"]
_KERNELS = 5
_LEAST_WEIGHT = 1e-3


def left_basis(V: Tensor, k: int) -> Tensor:
    """The first left singular vectors of a matrix.

    Args:
        V: ``(m, n)``.
        k: How many; as many as there are where that is less.

    Returns:
        ``(m, min(k, m, n))``, orthonormal columns.
    """
    U: Tensor = torch.linalg.svd(V, full_matrices=False).U
    return U[:, :k]


def factor(V: Tensor, kind: Projector = "frobenius", k: int = 8) -> Tensor:
    """The matrix F with ``C = F F^T`` of `projector`, which is as large as V or smaller, where C is not.

    Args:
        V: ``(m, n)``, not zero.
        kind: See `projector`.
        k: See `projector`.

    Returns:
        ``(m, n)`` or ``(m, k)``.

    Raises:
        ValueError: If V is zero, or the kind is not known.
    """
    check_choice("kind", kind, ("frobenius", "topk"))
    if not V.any():
        raise ValueError("the alignment did not change this matrix (V = 0), so nothing can be projected on its change")
    return left_basis(V, k) if kind == "topk" else V / torch.linalg.norm(V).sqrt()


def projector(V: Tensor, kind: Projector = "frobenius", k: int = 8) -> Tensor:
    """The map onto what alignment changed: ``V V^T / ‖V‖_F``, or ``U_k U_k^T`` of V.

    The first form, of Safe LoRA (arXiv 2405.16833), is not a projector: it is proportional to V, so that it amplifies
    where alignment changed much and shrinks where it changed little. The second is.

    Args:
        V: ``(m, n)``, not zero.
        kind: ``"frobenius"`` or ``"topk"``.
        k: Rank of the second form.

    Returns:
        ``(m, m)``, symmetric.

    >>> projector(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
    tensor([[1.8000, 0.0000],
            [0.0000, 3.2000]])
    >>> projector(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), kind="topk", k=1)
    tensor([[0., 0.],
            [0., 1.]])
    """
    F = factor(V, kind, k)
    return F @ F.T


@dataclass(frozen=True)
class SafeLoRA:
    """What Safe LoRA makes of an update.

    Attributes:
        update: ``C D`` where the cosine is at most tau, else D.
        projected: ``C D``.
        cosine: Of ``C D`` with D.
        gain: ``‖C D‖ / ‖D‖``; at most 1 for a projector.
        idempotence_error: ``‖C C - C‖ / ‖C‖``; 0 for a projector.
        is_projected: Whether the cosine is at most tau.
    """

    update: Tensor
    projected: Tensor
    cosine: float
    gain: float
    idempotence_error: float
    is_projected: bool


def safelora(D: Tensor, V: Tensor, tau: float = 0.5, kind: Projector = "frobenius", k: int = 8) -> SafeLoRA:
    """Project an update on what alignment changed, if it is far from it: arXiv 2405.16833.

    Args:
        D: ``(m, n)``, not zero.
        V: ``(m, n)``, not zero.
        tau: The largest cosine of ``C D`` with D at which D is replaced.
        kind: See `projector`.
        k: See `projector`.

    Returns:
        The update, and what is to be known of C.
    """
    C = projector(V, kind, k)
    projected = C @ D
    norm, size = torch.linalg.norm(D), torch.linalg.norm(projected)
    cosine = float((projected * D).sum() / (norm * size))
    error = float(torch.linalg.norm(C @ C - C) / torch.linalg.norm(C))
    close = cosine > tau
    return SafeLoRA(D if close else projected, projected, cosine, float(size / norm), error, not close)


def asft_penalty(D: Tensor, C: Tensor) -> Tensor:
    """What of an update is off the alignment: ``‖(I - C) D‖_F^2``, the penalty of AsFT (arXiv 2506.08473).

    Args:
        D: ``(m, n)``.
        C: ``(m, m)``, from `projector`.

    Returns:
        A scalar, differentiable.
    """
    return (D - C @ D).square().sum()


def asft_gradient(D: Tensor, F: Tensor) -> Tensor:
    """The gradient of `asft_penalty`, ``2 (I - C) (I - C) D``, without the matrix C.

    Args:
        D: ``(m, n)``.
        F: ``C = F F^T``, from `factor`.

    Returns:
        ``(m, n)``.
    """
    rest = D - F @ (F.T @ D)
    return 2 * (rest - F @ (F.T @ rest))


def lox(V: Tensor, k: int, c: float) -> Tensor:
    """The increment of LoX (arXiv 2506.15606): ``c U_k S_k V_k^T``, the alignment extrapolated in its first directions.

    Args:
        V: ``(m, n)``.
        k: How many directions; all where there are fewer.
        c: How far.

    Returns:
        ``(m, n)``.
    """
    U, S, Vh = torch.linalg.svd(V, full_matrices=False)
    increment: Tensor = c * (U[:, :k] * S[:k]) @ Vh[:k]
    return increment


def spf(G_user: Tensor, G_safety: Tensor, k: int) -> Tensor:
    """The user's gradient without the first directions of the safety gradient, where the two are in conflict.

    Args:
        G_user: ``(m, n)``.
        G_safety: ``(m, n)``.
        k: How many left singular vectors of the safety gradient.

    Returns:
        ``G_user - U_k U_k^T G_user`` where the inner product of the two is negative, else ``G_user``.
    """
    return G_user if (G_user * G_safety).sum() >= 0 else without(G_user, left_basis(G_safety, k))


def without(G: Tensor, U: Tensor) -> Tensor:
    """``G - U U^T G``.

    Args:
        G: ``(m, n)``.
        U: ``(m, k)``, orthonormal columns.

    Returns:
        ``(m, n)``.
    """
    return G - U @ (U.T @ G)


def antidote(W: Tensor, input_norms: Tensor, share: float) -> Tensor:
    """A weight without the entries that harmful rows use most: arXiv 2408.09600.

    Args:
        W: ``(m, n)``.
        input_norms: ``(n,)``, the norm of each input over the tokens of harmful rows.
        share: Of the entries of each row that become zero, those with the largest ``abs(W_ij) ‖x_j‖``.

    Returns:
        ``(m, n)``, with ``int(share n)`` zeros more in each row, the first of equals.
    """
    score = W.abs() * input_norms
    worst = score.argsort(dim=1, descending=True, stable=True)[:, : int(share * W.shape[1])]
    return W.scatter(1, worst, 0.0)


def safedelta(aligned: Tensor, tuned: Tensor, H: Tensor, s: float, damping: float) -> Tensor:
    """The part of an update that harms safety least, within a budget: arXiv 2505.12038.

    Entries of D are taken in ascending order of ``1/L_jj^2`` (row by row among equals) while the sum of
    ``D_ij^2/L_jj^2`` stays below ``s mean(1/L_jj^2)``. These become as tuned. The others stay aligned, but for what
    makes up for those of the columns before them: with L the upper Cholesky factor of ``H^-1``, fixing column j moves
    the columns behind it by ``(L_jl / L_jj)`` times its own movement, which changes the outputs least.

    Args:
        aligned: ``(m, n)``.
        tuned: ``(m, n)``.
        H: ``(n, n)``, ``2 X^T X / tokens`` of the inputs on safety rows.
        s: Size of the budget; 0 for the aligned weights, infinite for the tuned ones.
        damping: This much of the mean of H's diagonal is added to it.

    Returns:
        ``(m, n)``, in the precision of `aligned`; computed in double precision.

    Raises:
        ValueError: If H is zero or not finite.
    """
    H = H.double()
    mean = H.diagonal().mean()
    if not (torch.isfinite(H).all() and mean > 0):
        raise ValueError("the inputs of this matrix are zero or not finite, so that no budget can be shared out")
    damped = H + damping * mean * torch.eye(len(H), dtype=H.dtype, device=H.device)
    L = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    W, D = aligned.double().clone(), tuned.double() - aligned.double()
    cost = 1 / L.diagonal().square()
    order = cost.expand_as(D).reshape(-1).argsort(stable=True)
    spent = (D.square() * cost).reshape(-1)[order].cumsum(0)
    kept = torch.zeros(D.numel(), dtype=torch.bool, device=D.device)
    kept[order] = spent < s * cost.mean()
    kept = kept.reshape(D.shape)
    for j in range(D.shape[1]):
        moved = torch.where(kept[:, j], tuned[:, j].double() - W[:, j], 0.0)
        W[:, j:] += torch.outer(moved / L[j, j], L[j, j:])
    return torch.where(kept, tuned, W.to(aligned.dtype))


def mmd(X: Tensor, Y: Tensor) -> Tensor:
    """The maximum mean discrepancy of two samples, squared: five kernels ``exp(-d^2 / (b 2^j))`` summed, j = 0 .. 4.

    b is a quarter of the mean squared distance of two different rows of the pooled samples, and is differentiated as
    everything else. Means include the diagonal, so that the number is biased, and zero for equal samples.

    Args:
        X: ``(p, n)``.
        Y: ``(q, n)``.

    Returns:
        A scalar, differentiable.
    """
    pooled = torch.cat([X, Y])
    with torch.autocast(pooled.device.type, enabled=False):  # differences of products need all digits
        distances = _distances(pooled)
    N = len(pooled)
    b = distances.sum() / (N * (N - 1)) / 4
    if b == 0:
        return distances.sum()
    kernel = torch.stack([torch.exp(-distances / (b * 2**j)) for j in range(_KERNELS)]).sum(0)
    p = len(X)
    return kernel[:p, :p].mean() + kernel[p:, p:].mean() - kernel[:p, p:].mean() - kernel[p:, :p].mean()


def constrained_weights(difference: Tensor, beta: Tensor | float) -> Tensor:
    """The weight of each token in a tuning that is held close to the aligned model: arXiv 2406.05946.

    Args:
        difference: ``log p - log p_aligned`` of the tokens of responses.
        beta: How much a difference counts, per token.

    Returns:
        ``2 (1 - sigmoid(beta difference))``, at least 0.001: 1 where the models agree, less where the tuned one already
        gives the token more.

    >>> constrained_weights(torch.tensor([0.0, 2.0]), 1.0)
    tensor([1.0000, 0.2384])
    """
    return (2 * (1 - torch.sigmoid(beta * difference))).clamp_min(_LEAST_WEIGHT)


def _distances(rows: Tensor) -> Tensor:
    """Squared distances without a tensor of all differences; the diagonal is exactly zero."""
    squares = rows.square().sum(-1)
    found = (squares[:, None] + squares[None] - 2 * rows @ rows.T).clamp_min(0)
    return found * (1 - torch.eye(len(rows), dtype=rows.dtype, device=rows.device))
