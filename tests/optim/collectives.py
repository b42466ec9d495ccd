"""What a process' collectives move, as a dispatch mode sees them: kind, processes and bytes of each."""

import torch
from torch import distributed
from torch.utils._python_dispatch import TorchDispatchMode

KINDS = {
    "allreduce_": "all-reduce",
    "allreduce_coalesced_": "all-reduce",
    "all_reduce": "all-reduce",
    "all_reduce_": "all-reduce",
    "allgather_": "gather",
    "_allgather_base_": "gather",
    "all_gather_into_tensor": "gather",
    "reduce_scatter_": "scatter",
    "_reduce_scatter_base_": "scatter",
    "reduce_scatter_tensor": "scatter",
    "broadcast_": "broadcast",
    "broadcast": "broadcast",
    "gather_": "to one",
}


class Collectives(TorchDispatchMode):
    """Records every collective of this process but votes, of whole numbers: kind, global ranks, bytes of the tensor.

    The whole tensor is what an all-reduce or broadcast sends around, what a gather makes, what a scatter begins with.
    """

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace in {"c10d", "_c10d_functional"}:
            name = func._schema.name.split("::")[1]
            if name in KINDS:
                ranks = _ranks(args)
                tensors = list(_tensors(args))
                whole = (
                    tensors if KINDS[name] in {"all-reduce", "broadcast"} else [max(tensors, key=torch.Tensor.numel)]
                )
                size = sum(tensor.nbytes for tensor in whole)
                if name == "allgather_":
                    size = sum(tensor.nbytes for tensor in args[0][0])
                if name == "gather_":
                    size = len(ranks) * sum(tensor.nbytes for tensor in args[1])
                if name == "all_gather_into_tensor":
                    size *= len(ranks)
                if not all(tensor.dtype == torch.int64 for tensor in tensors):
                    self.seen.append((KINDS[name], ranks, size))
            elif name not in {"wait_tensor", "_wrap_tensor_autograd", "barrier", "monitored_barrier_"}:
                raise AssertionError(f"a collective that is not counted: {func}")
        return func(*args, **(kwargs or {}))


def received(seen, per_node):
    """Bytes that a device gets by these collectives, within its node and from others.

    Each has to get what it lacks of the whole; what the node lacks enters it once and is shared among its devices.
    """
    within = between = 0.0
    for kind, ranks, size in seen:
        if kind == "to one":  # on average; of one process' own piece nothing moves
            k = len(ranks)
            part = sum(rank // per_node == other // per_node for rank in ranks for other in ranks if rank != other)
            within += size / k / k * part / k
            between += size / k / k * (k - 1 - part / k)
            continue
        k, nodes = len(ranks), len({rank // per_node for rank in ranks})
        times = 2 if kind == "all-reduce" else 1
        outside = size * (nodes - 1) / nodes / (k / nodes)
        within += times * (size * (k - 1) / k - outside)
        between += times * outside
    return within, between


def held(tensors):
    """Bytes of the memory of tensors, each block once."""
    blocks = {}
    for tensor in tensors:
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        storage = local.untyped_storage()
        if storage.nbytes():
            blocks[storage.data_ptr()] = storage.nbytes()
    return sum(blocks.values())


def _tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _ranks(args):
    for value in args:
        if isinstance(value, str) and value not in {"sum", "avg", "max", "min", "product"}:
            group = distributed.distributed_c10d._resolve_process_group(value)
            return distributed.get_process_group_ranks(group)
        if isinstance(value, torch.ScriptObject) and "ProcessGroup" in str(value._type()):
            return distributed.get_process_group_ranks(distributed.ProcessGroup.unbox(value))
    raise AssertionError("a collective without a process group")
