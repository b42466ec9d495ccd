"""Adding to parameters of low precision without losing what is small."""

from __future__ import annotations

import torch
from torch import Tensor

_ENTRIES = 1 << 20  # rounded at once


def add_stochastically(p: Tensor, update: Tensor, decay: float, generator: torch.Generator) -> None:
    """``p = decay p + update`` for bfloat16 p, rounded up or down at random so that the mean is exact.

    bfloat16 is the upper half of float32: sixteen random bits added below the cut carry with the right probability.

    Args:
        p: bfloat16 parameter, changed in place.
        update: Tensor of the same shape.
        decay: Factor on p.
        generator: Source of randomness, on the CPU.
    """
    rows = max(1, _ENTRIES // max(1, p[0].numel()))
    for block, change in zip(torch.split(p, rows), torch.split(update, rows), strict=True):
        exact = block.float().mul_(decay).add_(change)
        noise = torch.randint(0, 1 << 16, exact.shape, dtype=torch.int32, generator=generator).to(p.device)
        bits = exact.view(torch.int32).add_(noise).bitwise_and_(-(1 << 16))
        block.copy_(bits.view(torch.float32))
