"""Gradients of all parameters taken as one vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """The inner product over all parameters, summed up in double precision.

    Args:
        a: One tensor per parameter.
        b: The same.

    Returns:
        A scalar.
    """
    return torch.stack([(x.double() * y.double()).sum() for x, y in zip(a, b, strict=True)]).sum()


def of_length(gradients: Sequence[Tensor], length: float) -> list[Tensor]:
    """The vector along some gradients that has a length over all parameters; zero where the gradients are.

    Args:
        gradients: One tensor per parameter.
        length: Of the result.

    Returns:
        One tensor per parameter.
    """
    norm = inner(gradients, gradients).sqrt()
    factor = length / norm if norm > 0 else torch.zeros_like(norm)
    return [g * factor.to(g) for g in gradients]
