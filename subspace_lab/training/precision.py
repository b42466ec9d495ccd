"""Which precision is the faster one on this machine."""

from __future__ import annotations

import statistics
import time
from typing import Literal

import torch

_SIZE = 1024
_REPEATS = 5
_WORTH_IT = 1.3  # autocast casts weights and activations back and forth: a smaller gain is eaten up by that


def faster_precision(device: torch.device) -> Literal["float32", "bfloat16"]:
    """``bfloat16`` where its matrix products are clearly faster than float32 ones, by trying both.

    Args:
        device: Where the model will be.

    Returns:
        The precision to train in.
    """
    single, half = (_seconds(torch.ones(_SIZE, _SIZE, dtype=dtype, device=device))
                    for dtype in (torch.float32, torch.bfloat16))  # fmt: skip
    return "bfloat16" if single > _WORTH_IT * half else "float32"


def _seconds(A: torch.Tensor) -> float:
    times = []
    for _ in range(_REPEATS + 1):  # the first one warms up
        start = time.perf_counter()
        (A @ A)[0, 0].item()  # waits for an accelerator
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])
