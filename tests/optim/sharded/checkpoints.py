"""Saving and loading of distributed trainings: by distributed checkpoints, and as whole states."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, distributed
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from tests.optim.members import MEMBERS, Member
from tests.optim.sharded.nets import STEPS, Alone, Wrapped, groups_of, train, whole

RESUMED = [(member, "fsdp") for member in MEMBERS] + [(MEMBERS[0], "hsdp"), (MEMBERS[0], "fsdp-tp")]
ENDS = {4: 2, 2: 4, 1: STEPS}  # processes -> until which step they train


def start(member: Member, wrapped: Wrapped | Alone) -> torch.optim.Optimizer:
    return member.build(groups_of(wrapped.model), weight_decay=0.1)


def state_of(wrapped: Wrapped, optimizer: torch.optim.Optimizer) -> dict:
    return {
        "model": get_model_state_dict(wrapped.model),
        "optimizer": get_optimizer_state_dict(wrapped.model, optimizer),
    }


def save(wrapped: Wrapped, optimizer: torch.optim.Optimizer, path: Path, *, late: bool = False) -> None:
    """Save; late: while the processes could go on."""
    with warnings.catch_warnings(action="ignore"):
        if late:
            dcp.async_save(state_of(wrapped, optimizer), checkpoint_id=path).result()
        else:
            dcp.save(state_of(wrapped, optimizer), checkpoint_id=path)


def load(wrapped: Wrapped, optimizer: torch.optim.Optimizer, path: Path) -> None:
    state = state_of(wrapped, optimizer)
    with warnings.catch_warnings(action="ignore"):
        dcp.load(state, checkpoint_id=path)
    set_model_state_dict(wrapped.model, state["model"])
    set_optimizer_state_dict(wrapped.model, optimizer, state["optimizer"])


def again(member: Member, kind: str, folder: Path) -> dict:
    """Whether a training that was saved and loaded is, bit for bit, the one that went on."""
    wrapped = Wrapped(kind)
    optimizer = start(member, wrapped)
    train(wrapped, optimizer, range(4))
    path = folder / f"again-{distributed.get_world_size()}" / kind / str(member)
    save(wrapped, optimizer, path, late=True)
    other = Wrapped(kind)
    fresh = start(member, other)
    load(other, fresh, path)
    train(wrapped, optimizer, range(4, STEPS))
    train(other, fresh, range(4, STEPS))
    found = other.parameters()
    return {"same": all(torch.equal(found[name], tensor) for name, tensor in wrapped.parameters().items())}


def passed_on(member: Member, kind: str, folder: Path) -> dict[str, Tensor]:
    """Parameters after the part of a training that this number of processes takes, from where twice as many stopped."""
    world = distributed.get_world_size()
    wrapped = Wrapped(kind)
    optimizer, begin = start(member, wrapped), ENDS.get(2 * world, 0)
    if begin:
        load(wrapped, optimizer, folder / f"passed-{2 * world}" / kind / str(member))
    train(wrapped, optimizer, range(begin, ENDS[world]))
    if world > 1:
        save(wrapped, optimizer, folder / f"passed-{world}" / kind / str(member))
    return wrapped.parameters()


def whole_states(member: Member, kind: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters after half of a training by many processes and half by one, and the other way round."""
    many, one = Wrapped(kind), Alone()
    optimizers = start(member, many), start(member, one)
    for wrapped, optimizer in zip((many, one), optimizers, strict=True):
        train(wrapped, optimizer, range(4))
    saved = [whole_dict(optimizer.state_dict()) for optimizer in optimizers]
    parameters = many.parameters(), one.parameters()
    found = []
    for wrapped, state, values in zip((Alone(), Wrapped(kind)), saved, parameters, strict=True):
        optimizer = start(member, wrapped)
        set_parameters(wrapped, values)
        optimizer.load_state_dict(state)
        train(wrapped, optimizer, range(4, STEPS))
        found.append(wrapped.parameters())
    return found[0], found[1]


def whole_dict(value):
    """A state dict with whole tensors."""
    if isinstance(value, dict):
        return {key: whole_dict(inner) for key, inner in value.items()}
    return whole(value) if isinstance(value, Tensor) else value


@torch.no_grad()
def set_parameters(wrapped: Wrapped | Alone, values: dict[str, Tensor]) -> None:
    """Set all parameters, each process its part."""
    for name, p in wrapped.model.named_parameters():
        value = values[name.removeprefix("module.")]
        if hasattr(p, "device_mesh"):
            from subspace_lab.optim.sharded import own_part

            p._local_tensor.copy_(own_part(value, p.device_mesh, p.placements))
        else:
            p.copy_(value)
