"""Randomness that depends on (seed, parameter, refresh) alone: the same on every rank and after a resume.

A parameter is known by its name where there is one, so that one optimizer per parameter draws what one for all does;
without names by its place among all parameters of the optimizer.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor

Draw = Callable[[int, int], Tensor]


def generator(*key: object) -> torch.Generator:
    """A CPU generator seeded by a key of numbers and words.

    Args:
        key: What the draws are for.

    Returns:
        The generator; the user's global one is untouched.
    """
    return torch.Generator().manual_seed(random.Random("/".join(map(str, key))).getrandbits(63))


def normal_draw(*key: object) -> Draw:
    """A source of Gaussian matrices for a key.

    Args:
        key: Seed, parameter (its name or its place), refresh number.

    Returns:
        A function of (rows, columns) that draws a float32 matrix on the CPU, the same one at every call.
    """

    def draw(rows: int, cols: int) -> Tensor:
        return torch.randn(rows, cols, dtype=torch.float32, generator=generator(*key))

    return draw
