"""What every process holds of a distributed training, beside what the memory report says of it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, distributed, nn

from subspace_lab import optim
from tests.launch import tell
from tests.optim.members import MEMBERS
from tests.optim.sharded.nets import Wrapped, shares, tokens

KINDS = {2: ("fsdp", "fsdp-columns", "tp"), 4: ("fsdp", "hsdp", "tp", "fsdp-tp")}
REPORTED = {member.name: member for member in MEMBERS if member.name != "SubspaceAdam"}  # one of each method
RANK, BASES = 3, {"basis", "indices"}


def held(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages of what is here, each once."""
    storages = [getattr(tensor, "_local_tensor", tensor).untyped_storage() for tensor in tensors]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


def optimizer_of(model: nn.Module, name: str, options: dict) -> torch.optim.Optimizer:
    """An optimizer whose second step is for another block, where it has blocks."""
    if name == "AdamW":
        return torch.optim.AdamW(model.parameters(), foreach=False)
    interval = 1 if name == "BAdam" else 3
    return getattr(optim, name)(optim.param_groups(model, rank=RANK), update_interval=interval, **options)


def compared(model: nn.Module, name: str, **more: str) -> dict:
    """What is held after a step (BAdam: the most over all blocks), and the report from before it."""
    options = {**REPORTED[name].options, **more} if name in REPORTED else {}
    report = optim.memory_report(model, name, rank=RANK, **options)
    optimizer = optimizer_of(model, name, options)
    states = bases = 0
    for _ in range(len(optimizer.blocks()) if name == "BAdam" else 1):
        optimizer.step()
        entries = [entry for state in optimizer.state.values() for entry in state.items()]
        states = max(states, held(v for key, v in entries if isinstance(v, Tensor) and key not in BASES))
        bases = max(bases, held(v for key, v in entries if key in BASES))
    weights, gradients = held(model.parameters()), held(p.grad for p in model.parameters())
    found = {"weights": weights, "gradients": gradients, "states": states, "bases": bases}
    return {"held": found, "reported": {what: getattr(report, what) for what in found}}


def work(directory: str) -> None:
    """All kinds and methods, with the gradients of one backward each."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    found = {}
    for kind in KINDS[distributed.get_world_size()]:
        wrapped = Wrapped(kind)
        wrapped.model(shares(tokens(0)[0], *wrapped.share)).backward()
        for name in ("AdamW", *REPORTED):
            found[f"{kind}/{name}"] = compared(wrapped.model, name)
        if kind in {"fsdp", "hsdp"}:
            for name in ("GrassWalk", "GaLore"):
                found[f"{kind}/{name}/side"] = compared(wrapped.model, name, side="sharded")
    tell(found, directory)
