"""Whether the safety rows object to a step: before a defense, after it, and to what the optimizer made of it.

Legend: ``g_u``, ``g_s`` gradients of the user's and of the safety rows; ``g_d`` the gradient that a defense returned;
``dW`` what the step changed; ``U_k (m, k)`` the top-k left singular space of a matrix of ``g_s``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from subspace_lab.numerics import default_side, gram, gram_eigh, null_isotropic, orient

TOP = 8  # dimensions of the safety space
ROUNDING = 1e-5  # a gradient that surgery made orthogonal has a cosine below this, of either sign


def conflict_row(
    user: Sequence[Tensor | None],
    safety: Sequence[Tensor | None],
    defended: Sequence[Tensor | None],
    applied: Sequence[Tensor | None],
    *,
    k: int = TOP,
) -> dict[str, float]:
    """A row of the table ``steps`` without its cell and step.

    An optimizer with momentum, and a projection, may bring back what surgery removed; so the step is looked at too. All
    cosines are over all parameters together, ``None`` counts as zeros.

    Args:
        user: ``g_u``, one tensor per trainable parameter.
        safety: ``g_s``, in the same order.
        defended: ``g_d``, what the defense returned; None for a parameter that it leaves alone.
        applied: ``dW``, weights after the step minus weights before it.
        k: Dimensions of the safety space of each matrix, at least 1.

    Returns:
        cos_user_safety (of g_u and g_s), conflict (whether it is negative, 0 or 1; at random 0.5), cos_after (of g_d
        and g_s), cos_applied (of -dW and g_s: negative where the step ascends the safety loss), energy and null_energy
        (`safety_energy`), k, and null_cos_sd = 1/sqrt(N), the standard deviation of the cosine of random vectors. NaN
        where a gradient or the step is zero.

    Raises:
        ValueError: If the lists are not of one length, or `k` is smaller than 1.

    >>> import torch
    >>> g = [torch.tensor([0.0, -2.0, 5.0])], [torch.tensor([-1.0, 1.0, -1.0])]
    >>> row = conflict_row(*g, [torch.tensor([-7.0, 1.0, 8.0]) / 3], [torch.tensor([1.0, -1.0, 1.0])])
    >>> row["conflict"], round(row["cos_user_safety"], 4), round(row["cos_applied"], 4)
    (1.0, -0.7505, 1.0)
    """
    if len({len(one) for one in (user, safety, defended, applied)}) != 1:
        raise ValueError("user, safety, defended and applied have one tensor per parameter each, in one order")
    before = cosine(user, safety)
    energy, null = safety_energy(user, safety, k)
    numbers = sum(one.numel() for one in user if one is not None)
    return {
        "cos_user_safety": before,
        "conflict": float(conflicts(before)) if before == before else math.nan,
        "cos_after": cosine(defended, safety),
        "cos_applied": -cosine(applied, safety),
        "energy": energy,
        "null_energy": null,
        "k": k,
        "null_cos_sd": 1 / math.sqrt(numbers) if numbers else math.nan,
    }


def conflicts(cosine: float) -> bool:
    """Whether a cosine is negative by more than rounding."""
    return cosine < -ROUNDING


def cosine(first: Sequence[Tensor | None], second: Sequence[Tensor | None]) -> float:
    """The cosine of two lists of tensors as vectors, None as zeros; NaN where one is zero.

    Sums are in float64: over millions of numbers those of float32 are off by more than `ROUNDING`.

    Args:
        first: Tensors of any shapes.
        second: As many, of the same sizes.

    Returns:
        A number in [-1, 1].
    """
    product = squared_first = squared_second = 0.0
    for a, b in zip(first, second, strict=True):
        A, B = (None if one is None else one.detach().double().flatten() for one in (a, b))
        squared_first += 0.0 if A is None else float(A @ A)
        squared_second += 0.0 if B is None else float(B @ B)
        product += 0.0 if A is None or B is None else float(A @ B)
    norms = math.sqrt(squared_first) * math.sqrt(squared_second)
    return product / norms if norms > 0 else math.nan


def safety_energy(user: Sequence[Tensor | None], safety: Sequence[Tensor | None], k: int = TOP) -> tuple[float, float]:
    """Share of the user gradient's energy in the safety spaces of its matrices, and that of a random space.

    ``sum ||U_k^T G_u||^2 / sum ||G_u||^2`` over the matrices, each oriented by its shorter side as everywhere in the
    package. The null is k/m of each matrix, weighted by its share of the energy as the measured one is.

    Args:
        user: ``g_u``.
        safety: ``g_s``, in the same order.
        k: Dimensions of each space; m where a matrix has fewer.

    Returns:
        The share and its null, NaN where no matrix has a gradient of both kinds.

    Raises:
        ValueError: If `k` is smaller than 1.
    """
    if k < 1:
        raise ValueError(f"the safety space has at least 1 dimension, got k={k}")
    held = expected = total = 0.0
    for G_u, G_s in zip(user, safety, strict=True):
        if G_u is None or G_s is None or G_u.ndim != 2 or not bool(G_s.any()):
            continue
        side = default_side(*G_u.shape)
        C = gram(G_s.detach(), side)
        U = gram_eigh(C, min(k, C.shape[0]))[1]  # (m, k)
        G = orient(G_u.detach().to(U.dtype), side)
        energy = float(G.square().sum())
        held += float((U.mT @ G).square().sum())
        expected += energy * null_isotropic(k, G.shape[0])
        total += energy
    return (held / total, expected / total) if total > 0 else (math.nan, math.nan)
