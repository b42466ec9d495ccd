"""Adding to parameters of low precision without losing what is small."""

from __future__ import annotations

import torch
from torch import Tensor

HALF = {torch.bfloat16, torch.float16}  # what stochastic rounding is for
_ENTRIES = 1 << 20  # rounded at once


def blocks(x: Tensor) -> tuple[Tensor, ...]:
    """Views of a tensor, a million entries each, cut along its first dimension.

    Args:
        x: Tensor of any shape, a number or an empty one too.

    Returns:
        At least one block; of tensors of one shape the same ones.
    """
    if x.dim() == 0:
        return (x.unsqueeze(0),)
    return torch.split(x, max(1, _ENTRIES // max(1, x.numel() // max(1, x.shape[0]))))


def add_rounded(p: Tensor, update: Tensor, decay: float, generator: torch.Generator | None) -> None:
    """``p = decay p + update`` with one rounding.

    Args:
        p: Parameter, changed in place.
        update: Tensor of the same shape, of p's dtype or a more precise one.
        decay: Factor on p.
        generator: Source of stochastic rounding, on the CPU; None for rounding to nearest, which p of more than half
            precision always gets.
    """
    if generator is not None and p.dtype in HALF:
        add_stochastically(p, update, decay, generator)
    else:
        torch.add(update, p, alpha=decay, out=p)


def add_stochastically(p: Tensor, update: Tensor, decay: float, generator: torch.Generator) -> None:
    """``p = decay p + update`` for p of half precision, rounded up or down at random so that the mean is exact.

    bfloat16 is the upper half of float32: sixteen random bits added below the cut carry with the right probability.
    float16 has thirteen bits less and a smallest step: there a random share of a step is added before the cut.

    Args:
        p: bfloat16 or float16 parameter, changed in place.
        update: Tensor of the same shape.
        decay: Factor on p.
        generator: Source of randomness, on the CPU.
    """
    for block, change in zip(blocks(p), blocks(update), strict=True):
        exact = block.float().mul_(decay).add_(change)
        noise = torch.randint(0, 1 << 16, exact.shape, dtype=torch.int32, generator=generator).to(p.device)
        if p.dtype == torch.bfloat16:
            bits = exact.view(torch.int32).add_(noise).bitwise_and_(-(1 << 16))
            block.copy_(bits.view(torch.float32))
        else:
            step = (torch.frexp(exact).exponent - 11).clamp_min_(-24)  # exponent of float16's step at this size
            whole = torch.ldexp(exact, -step).add_(noise.bitwise_right_shift_(3), alpha=2.0**-13).floor_()
            block.copy_(torch.ldexp(whole, step))
