"""The processes of a run: one, or as many as torchrun started."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

_PATIENCE = datetime.timedelta(days=1)  # the first process may be reading a large dataset


@dataclass(frozen=True)
class Workers:
    """This process among those of the run.

    Attributes:
        rank: Number of this process; the first one, 0, writes.
        size: Number of processes.
        device: Where this one computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def sums(self, values: Sequence[float]) -> list[float]:
        """The sums over all processes of some numbers; without others, the numbers themselves.

        Args:
            values: As many in every process.

        Returns:
            The sums, the same in every process.
        """
        if self.size == 1:
            return list(values)
        totals = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(totals)
        return [float(total) for total in totals]

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def workers() -> Iterator[Workers]:
    """Join the processes that torchrun started; alone when ``WORLD_SIZE`` is not set or 1.

    Yields:
        This process. The group (gloo on the CPU, nccl on CUDA) is left afterwards, unless it was there before.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    on_cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if on_cuda else torch.device("cpu")
    if on_cuda:
        torch.cuda.set_device(device)
    joins = size > 1 and not dist.is_initialized()
    if joins:
        dist.init_process_group("nccl" if on_cuda else "gloo", timeout=_PATIENCE)
    try:
        yield Workers(dist.get_rank() if size > 1 else 0, size, device)
    finally:
        if joins:
            dist.destroy_process_group()


ALONE = Workers(rank=0, size=1, device=torch.device("cpu"))
