"""How much of the time of an optimizer goes into its subspaces."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

import torch


class RefreshClock:
    """Adds up the seconds spent inside of its ``with`` blocks: give one to an optimizer's ``refresh_clock``.

    What counts is choosing subspaces (decompositions, walks, draws of random matrices, also where a method draws its
    projection again at every step) and carrying the moments over; the first subspace is among them. Kernels of a GPU
    that were started before and within the block are waited for, so that a GPU is a little slower while it is timed.

    Attributes:
        seconds: Until now.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since = 0.0

    def __enter__(self) -> Self:
        self._since = _now()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds += _now() - self._since

    def lap(self) -> float:
        """The seconds since the last call of this method, or the beginning."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


def _now() -> float:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
    return time.perf_counter()
