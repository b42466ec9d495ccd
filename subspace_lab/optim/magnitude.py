"""Gradients so large that their squares overflow: found by the check of every step, scaled down for that step.

A gradient with a norm above the limit is multiplied by a power of two that brings it there, as if it had been clipped.
Below the limit nothing is touched, not a bit. Between it and the largest number is room for what a step makes of a
gradient: squares, sums of them, products with a basis or a Gaussian sketch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from subspace_lab.optim.shards import max_over, norm_over

LIMIT = 2.0**56  # of the norm of a gradient, 7.2e16
LIMIT_DOUBLE = 2.0**500  # where gradient and state are float64


def limit(*dtypes: torch.dtype) -> float:
    """The largest norm that a gradient may have whose step is computed in these dtypes.

    Args:
        dtypes: Of the gradient and of its state.

    Returns:
        The limit, a power of two.
    """
    return LIMIT_DOUBLE if set(dtypes) <= {torch.float64, torch.complex128} else LIMIT


def shrinking(x: Tensor, largest_norm: float, p: Tensor | None = None) -> float:
    """The power of two that brings the norm of a tensor just below a limit.

    Neither squares nor sums overflow on the way.

    Args:
        x: Finite tensor.
        largest_norm: The limit, a power of two.
        p: Parameter whose entries x belongs to, where other processes may hold others.

    Returns:
        The factor, 1 where the norm is below the limit.
    """
    largest = float(x.abs().max()) if x.numel() else 0.0
    if p is not None:
        largest = max_over(p, largest)
    if largest == 0:
        return 1.0
    exact = x if x.dtype.itemsize >= 4 else x.float()
    share = float(torch.linalg.vector_norm(exact / largest))
    if p is not None:
        share = norm_over(p, share)
    (m1, e1), (m2, e2) = math.frexp(largest), math.frexp(share)
    mantissa, exponent = math.frexp(m1 * m2)  # the norm is mantissa 2 ** (exponent + e1 + e2), which may be no number
    exponent += e1 + e2 - (mantissa == 0.5)  # and at most 2 ** exponent
    return 2.0 ** min(0, math.frexp(largest_norm)[1] - 1 - exponent)


def bounded(A: Tensor, *dtypes: torch.dtype) -> Tensor:
    """A product with a gradient that the check let pass because its large entries cancel in their sum.

    Args:
        A: Projected gradient (r, n), changed in place where it is beyond 16 times the limit.
        dtypes: Of the products and of the state.

    Returns:
        A.
    """
    most = 16 * limit(*dtypes)
    return A.nan_to_num_(0.0, most, -most).clamp_(-most, most)
