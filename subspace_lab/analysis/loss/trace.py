"""The trace of a Hessian that is known by its products.

Legend: ``H`` (N, N); ``V (N, k)`` orthonormal; ``P = I - V V^T``; ``z (N,)`` random signs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def trace_estimate(
    product: Callable[[Tensor], Tensor], V: Tensor, values: np.ndarray, num_samples: int, seed: int
) -> tuple[float, float]:
    """The trace, exactly on a subspace and by random vectors on the rest, with its standard error.

    ``tr H = sum_i v_i^T H v_i + E[(P z)^T H (P z)]``, unbiased for any V that z does not know. This is Hutch++ (arXiv
    2010.09649) with eigenvectors in the place of its sketch: they are there already, and taking them out removes the
    greater part of the variance ``2 ||P H P||_F^2`` that plain Hutchinson pays.

    Args:
        product: ``v -> H v`` for vectors (N,).
        V: Orthonormal columns (N, k).
        values: ``v_i^T H v_i`` (k,).
        num_samples: Random vectors, at least 2.
        seed: Of the random vectors.

    Returns:
        The trace and its standard error, which is zero where V is the whole space.
    """
    exact = float(values.sum())
    if V.shape[0] == V.shape[1]:
        return exact, 0.0
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for _ in range(num_samples):
        z = torch.randint(0, 2, (V.shape[0],), generator=generator).mul_(2).sub_(1).to(V)
        z.sub_(V @ (V.mT @ z))
        samples.append(float(z @ product(z)))
    return exact + float(np.mean(samples)), float(np.std(samples, ddof=1) / num_samples**0.5)
