"""Bytes that a process receives by collectives: counted where torch dispatches them, rings as a model of each."""

from __future__ import annotations

import torch
from torch.distributed import ProcessGroup
from torch.utils._python_dispatch import TorchDispatchMode


class Received(TorchDispatchMode):
    """Adds up what this process receives; votes, by which processes agree, are not counted.

    Attributes:
        bytes: Until now.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0.0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out, name = function(*args, **(kwargs or {})), function.name().partition(".")[0]
        if name.startswith("c10d::"):
            self.bytes += self.by_group(name, args)
        return out

    def by_group(self, name, args):
        of = next(ProcessGroup.unbox(x) for x in args if isinstance(x, torch.ScriptObject) and is_group(x))
        tensors, ways = args[0], of.size()
        if name == "c10d::allreduce_":
            return sum(2 * size(x) * (ways - 1) / ways for x in tensors if x.numel() > 2 and x.is_floating_point())
        if name == "c10d::broadcast_":
            return sum(map(size, tensors)) * (of.rank() != args[2])
        if name in {"c10d::_allgather_base_", "c10d::_reduce_scatter_base_"}:
            return max(size(args[0]), size(args[1])) * (ways - 1) / ways
        if name == "c10d::alltoall_base_":
            parts = args[3]
            return size(tensors) * (1 - parts[of.rank()] / max(1, sum(parts)))
        assert name == "c10d::gather_", name
        return size(args[1][0]) * (ways - 1) if of.rank() == args[3] else 0.0


def is_group(x: torch.ScriptObject) -> bool:
    return x._type().qualified_name().endswith("ProcessGroup")


def size(x: torch.Tensor) -> int:
    return x.numel() * x.element_size()
