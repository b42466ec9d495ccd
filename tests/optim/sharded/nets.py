"""A small model, its data, and what torch wraps it in; the same steps for one process and for many."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard

STEPS, MICRO, BATCH, LENGTH, VOCABULARY = 7, 2, 4, 5, 11


class Net(nn.Module):
    """Wide, tall, square, tiny and fused matrices, a convolution, a stack of experts, tied and full-rank weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed_tokens = nn.Embedding(VOCABULARY, 20)
        self.norm = nn.LayerNorm(20)
        self.up_proj, self.middle = nn.Linear(20, 12), nn.Linear(12, 12)
        self.gate_proj, self.down_proj = nn.Linear(12, 24, bias=False), nn.Linear(24, 20, bias=False)
        self.conv = nn.Conv1d(20, 6, 2)
        self.experts = nn.Parameter(0.3 * torch.randn(4, 6, 8))
        self.few, self.qkv, self.gates = nn.Linear(8, 3), nn.Linear(8, 15), nn.Linear(8, 20)
        self.head = nn.Linear(20, VOCABULARY, bias=False)
        self.head.weight = self.embed_tokens.weight
        self.double()

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(self.embed_tokens(tokens))
        x = x + self.down_proj(torch.tanh(self.gate_proj(torch.tanh(self.middle(torch.tanh(self.up_proj(x)))))))
        y = torch.tanh(self.conv(x.mT).mT)
        y = torch.stack([torch.tanh(y @ expert) for expert in self.experts]).sum(0)
        rest = sum((torch.tanh(part(y)) + 1).square().mean() for part in (self.few, self.qkv, self.gates))
        return self.head(x).square().mean() + self.head(x).logsumexp(-1).mean() + rest


RANKED = ["up_proj.weight", "middle.weight", "gate_proj.weight", "down_proj.weight", "conv.weight", "few.weight"]


def groups_of(model: nn.Module, side: str = "auto", sides: dict[str, str] | None = None) -> list[dict]:
    """Matrices with a rank, a stack of experts, and the rest without; the same draws in whatever groups."""
    named = {name.removeprefix("module."): p for name, p in model.named_parameters()}
    by_side: dict[str, list] = {}
    for name in RANKED:
        by_side.setdefault((sides or {}).get(name, side), []).append((name, named.pop(name)))
    return [
        *({"params": low, "rank": 3, "side": where} for where, low in by_side.items()),
        *(
            {"params": [(name, named.pop(name))], "rank": 3, "splits": splits}
            for name, splits in {"experts": 4, "qkv.weight": 3, "gates.weight": 2}.items()
        ),
        {"params": list(named.items()), "rank": None},
    ]


def sides_of(kind: str) -> dict[str, str]:
    """The sides that are not sharded: columns where rows are, and the other way round."""
    if kind == "fsdp":
        return dict.fromkeys(RANKED, "right")
    colwise, rowwise = ("up_proj.weight", "gate_proj.weight"), ("middle.weight", "down_proj.weight")
    return {**dict.fromkeys(colwise, "right"), **dict.fromkeys(rowwise, "left")}


def tokens(step: int) -> list[Tensor]:
    """Micro-batches of a step."""
    generator = torch.Generator().manual_seed(100 + step)
    return list(torch.randint(VOCABULARY, (MICRO, BATCH, LENGTH), generator=generator))


def shares(batch: Tensor, index: int, count: int) -> Tensor:
    """The part of a batch that one of several processes has."""
    return batch.chunk(count)[index]


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on every process."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@functools.cache
def mesh_of(*shape: int, names: tuple[str, ...] | None = None) -> DeviceMesh:
    """A mesh of all processes, one for all cells, as a training has one: each has threads and sockets of its own."""
    return init_device_mesh("cpu", shape, mesh_dim_names=names)


class Wrapped:
    """A model as torch distributes it.

    Attributes:
        model: What is trained.
        share: Which part of a batch this process has, and of how many.
    """

    def __init__(self, kind: str) -> None:
        from torch.distributed.fsdp import fully_shard
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

        world, net = distributed.get_world_size(), Net()
        self.model: nn.Module = net
        if kind == "ddp":
            self.model, self.share = nn.parallel.DistributedDataParallel(net), (distributed.get_rank(), world)
        elif kind in {"fsdp", "fsdp-columns"}:
            mesh = mesh_of(world)
            placement = by_columns if kind == "fsdp-columns" else None
            for part in (net.up_proj, net.gate_proj):
                fully_shard(part, mesh=mesh, shard_placement_fn=placement)
            fully_shard(net, mesh=mesh, shard_placement_fn=placement)
            self.share = distributed.get_rank(), world
        elif kind.startswith("hsdp"):
            copies = 1 if kind == "hsdp-1x2" else min(world, 2)
            fully_shard(net, mesh=mesh_of(copies, world // copies, names=("copies", "shards")))
            self.share = distributed.get_rank(), world
        else:
            ways = 1 if kind == "fsdp-tp-2x1" else min(world, 2) if kind == "fsdp-tp" else world
            mesh = mesh_of(world // ways, ways, names=("data", "model"))
            plan = {
                "up_proj": ColwiseParallel(), "middle": RowwiseParallel(), "gate_proj": ColwiseParallel(),
                "down_proj": RowwiseParallel(),
            }  # fmt: skip
            parallelize_module(net, mesh["model"], plan)
            self.share = 0, 1
            if kind != "tp":
                fully_shard(net, mesh=mesh["data"])
                self.share = mesh["data"].get_local_rank(), world // ways

    def parameters(self) -> dict[str, Tensor]:
        """All parameters, whole."""
        return {name.removeprefix("module."): whole(p.detach()).clone() for name, p in self.model.named_parameters()}


def by_columns(p: nn.Parameter) -> Shard | None:
    """Columns where they can be divided, rows elsewhere."""
    return Shard(1) if p.dim() == 2 and p.shape[1] % distributed.get_world_size() == 0 else None


class Alone:
    """The model on one process."""

    def __init__(self) -> None:
        self.model, self.share = Net(), (0, 1)

    parameters = Wrapped.parameters


def train(wrapped: Wrapped | Alone, optimizer: torch.optim.Optimizer, steps: range, clip: float | None = 0.5) -> None:
    """Take steps: accumulation over micro-batches, clipping of the global norm."""
    for step in steps:
        backward(wrapped, step)
        if clip is not None:
            clip_by_mesh(wrapped.model, clip)
        optimizer.step()
        optimizer.zero_grad()


def backward(wrapped: Wrapped | Alone, step: int) -> None:
    """Accumulate the gradients of a step."""
    for batch in tokens(step):
        (wrapped.model(shares(batch, *wrapped.share)) / MICRO).backward()


def clip_by_mesh(model: nn.Module, largest: float) -> None:
    """`torch.nn.utils.clip_grad_norm_`, which takes parameters of one mesh at a time."""
    by_mesh: dict[object, list[Tensor]] = {}
    for p in model.parameters():
        by_mesh.setdefault(p.device_mesh if isinstance(p, DTensor) else None, []).append(p)
    if len(by_mesh) == 1:
        torch.nn.utils.clip_grad_norm_(model.parameters(), largest)
        return
    norms = [whole(torch.nn.utils.get_total_norm([p.grad for p in ps])) for ps in by_mesh.values()]
    total = torch.stack(norms).square().sum().sqrt()
    for ps in by_mesh.values():
        torch.nn.utils.clip_grads_with_norm_(ps, largest, total)


def states(optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """State of every parameter by name, whole, but for signs: those of singular vectors are decided by rounding."""
    found = {}
    for group in optimizer.param_groups:
        for name, p in zip(group["param_names"], group["params"], strict=True):
            found[name] = {
                key: whole(value).abs() if isinstance(value, Tensor) else torch.tensor(value)
                for key, value in optimizer.state.get(p, {}).items()
            }
    return found
