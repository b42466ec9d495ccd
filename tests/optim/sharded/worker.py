"""What every process does: all cells one after the other, and what came out as JSON."""

from __future__ import annotations

import datetime
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor

from subspace_lab import optim
from tests.launch import tell
from tests.optim.members import MEMBERS, Member
from tests.optim.sharded.checkpoints import RESUMED, again, passed_on, whole_states
from tests.optim.sharded.nets import (
    STEPS,
    Alone,
    Wrapped,
    backward,
    groups_of,
    mesh_of,
    sides_of,
    states,
    train,
)
from tests.optim.sharded.traffic import Received

WRAPPERS = {  # by the number of processes; meshes of two dimensions are 1 x 1, 2 x 1, 1 x 2 and 2 x 2
    1: ("ddp", "fsdp", "hsdp", "tp", "fsdp-tp"),
    2: ("ddp", "fsdp", "fsdp-columns", "hsdp", "hsdp-1x2", "tp", "fsdp-tp", "fsdp-tp-2x1"),
    4: ("ddp", "fsdp", "hsdp", "tp", "fsdp-tp"),
}
DECAY = {"weight_decay": 0.1}
SHAPES = {(64, 80): 1, (96, 16): 1, (64, 64): 1, (60, 80): 3}  # how many matrices they are
BY_NAME = {str(member): member for member in MEMBERS}


# --- one process -----------------------------------------------------------------------------------------------------


def references() -> dict:
    """Parameters and states of one process after training, by cell."""
    found = {str(member): trained(member, Alone()) for member in MEMBERS}
    for kind in ("fsdp", "tp"):
        for name in ("GrassWalk", "GaLore"):
            alone = Alone()
            optimizer = BY_NAME[name].build(groups_of(alone.model, sides=sides_of(kind)), **DECAY)
            train(alone, optimizer, range(STEPS))
            found[f"{name}/side/{kind}"] = alone.parameters(), states(optimizer)
    found["clipper"] = clipped(Alone())
    found["rule"] = with_a_rule(Alone())
    return found


def trained(member: Member, wrapped: Alone) -> tuple[dict, dict]:
    """A method on a model, from the beginning to the end."""
    optimizer = member.build(groups_of(wrapped.model), **DECAY)
    train(wrapped, optimizer, range(STEPS))
    return wrapped.parameters(), states(optimizer)


def clipped(wrapped: Alone) -> tuple[dict, dict]:
    """With a norm per kind of layer."""
    optimizer = BY_NAME["GrassWalk"].build(groups_of(wrapped.model), **DECAY)
    clip = optim.AdaptiveGroupClipper(wrapped.model, low=0.9, high=1.1)
    for step in range(STEPS):
        backward(wrapped, step)
        clip()
        optimizer.step()
        optimizer.zero_grad()
    return wrapped.parameters(), {"clip": {name: torch.tensor(mean) for name, mean in clip.means.items()}}


class Mean:
    """A rule that looks at everything: gradient, old basis and moment."""

    def first(self, G, rank, context):
        return torch.linalg.qr(G[:, :rank] + context.draw(G.shape[0], rank)).Q

    def refresh(self, S, G, context):
        return torch.linalg.qr(S + G[:, : S.shape[1]] + S @ context.moment.mean(G.dtype)[:, : S.shape[1]]).Q


def with_a_rule(wrapped: Alone) -> tuple[dict, dict]:
    """A rule that is not part of the package."""
    optimizer = optim.SubspaceAdam(groups_of(wrapped.model), lr=0.01, update_interval=3, rule=Mean())
    train(wrapped, optimizer, range(STEPS))
    return wrapped.parameters(), states(optimizer)


# --- many ------------------------------------------------------------------------------------------------------------


def distance(found: dict, expected: dict) -> float:
    """The largest difference, over the largest number of each tensor; one that may be small counts as 0.001."""
    assert found.keys() == expected.keys()
    assert all(found[key].shape == expected[key].shape for key in found)
    return max(
        float((found[key].double() - b.double()).abs().max() / b.double().abs().max().clamp_min(1e-3))
        for key, b in expected.items()
    )


def distances(found: tuple[dict, dict], expected: tuple[dict, dict]) -> dict:
    """Of parameters and of states."""
    return {
        "parameters": distance(found[0], expected[0]),
        "states": max((distance(found[1][name], expected[1][name]) for name in found[1] if found[1][name]), default=0),
    }


def non_finite(kind: str) -> dict:
    """What happens on this process where one of all has a NaN in its part of one gradient."""
    said = {}
    for what in ("raise", "skip"):
        wrapped = Wrapped(kind)
        optimizer = optim.GrassWalk(groups_of(wrapped.model), on_nonfinite=what)
        train(wrapped, optimizer, range(1))
        before = wrapped.parameters()
        backward(wrapped, 1)
        p = dict(wrapped.model.named_parameters())["middle.weight"]
        if distributed.get_rank() == distributed.get_world_size() - 1:
            p.grad._local_tensor[0, 0] = torch.nan
        try:
            optimizer.step()
            said[what] = "nothing"
        except optim.NonFiniteGradientError as error:
            said[what] = str(error)
        unchanged = all(torch.equal(tensor, before[name]) for name, tensor in wrapped.parameters().items())
        said[f"{what} changes"] = not unchanged
    return said


class Failing(Mean):
    """A rule that fails on the process that decomposes one matrix, or with one that is whole on the last process."""

    def __init__(self, shape):
        self.shape = shape

    def first(self, G, rank, context):
        is_one = self.shape == (12, 20) or distributed.get_rank() == distributed.get_world_size() - 1
        if tuple(G.shape) == self.shape and is_one:
            raise ValueError("this rule does not like the gradient")
        return super().first(G, rank, context)


def said_of(step: Callable[[], object]) -> dict:
    """What a step says on this process."""
    try:
        step()
    except ValueError as error:
        return {"said": str(error)}
    return {"said": "nothing"}


def failing_rule(shape: tuple[int, int]) -> dict:
    """What is said on this process where one of all fails to compute a basis."""
    wrapped = Wrapped("fsdp")
    optimizer = optim.SubspaceAdam(groups_of(wrapped.model), rule=Failing(shape))
    backward(wrapped, 0)
    return said_of(optimizer.step)


def other_seeds() -> dict:
    """Settings that differ between processes."""
    wrapped = Wrapped("fsdp")
    optimizer = optim.GrassJump(groups_of(wrapped.model), seed=distributed.get_rank())
    backward(wrapped, 0)
    return said_of(optimizer.step)


def gradient_on_one(is_sum: bool) -> dict:
    """A distributed parameter without a gradient on the last process, where the others may have parts of a sum."""
    wrapped = Wrapped("fsdp")
    optimizer = optim.GrassWalk(groups_of(wrapped.model))
    backward(wrapped, 0)
    p = dict(wrapped.model.named_parameters())["middle.weight"]
    if is_sum:
        p.grad = DTensor.from_local(torch.ones(p.shape).double(), p.device_mesh, [Partial()])
    if distributed.get_rank() == distributed.get_world_size() - 1:
        p.grad = None
    return said_of(optimizer.step)


def part_of_sum(whole: torch.Tensor) -> torch.Tensor:
    """What this process adds to a sum over all: another direction than the whole."""
    size, rank = distributed.get_world_size(), distributed.get_rank()
    noise = [torch.randn(whole.shape, generator=torch.Generator().manual_seed(k)).double() for k in range(size)]
    return whole / size + noise[rank] - noise[(rank + 1) % size]


def sums() -> dict:
    """Gradients that are left as parts of sums: those of the whole gradient."""
    found = []
    for is_sum in (False, True):
        wrapped = Wrapped("fsdp")
        optimizer = optim.GrassWalk(groups_of(wrapped.model))
        for step in range(4):
            backward(wrapped, step)
            for name in ("middle.weight", "up_proj.weight") if is_sum else ():
                p = dict(wrapped.model.named_parameters())[name]
                p.grad = DTensor.from_local(part_of_sum(p.grad.full_tensor()), p.device_mesh, [Partial()])
            optimizer.step()
            optimizer.zero_grad()
        found.append(wrapped.parameters())
    return {"parameters": distance(*found), "states": 0.0}


def local_on_one() -> dict:
    """A parameter that is not distributed, the first of all, without a gradient on the last process."""
    found = []
    for wrapped in (Wrapped("fsdp"), Wrapped("fsdp")):
        local = torch.nn.Parameter(torch.ones(6, 8).double())
        extra = [{"params": [("local.up.weight", local)], "rank": 2}] if found else []
        optimizer = optim.GaLore([*extra, *groups_of(wrapped.model)])
        backward(wrapped, 0)
        if distributed.get_rank() == 0:
            local.grad = torch.ones_like(local)
        optimizer.step()
        found.append(wrapped.parameters())
    return {"parameters": distance(*found), "states": 0.0}


def members_under(kind: str) -> list[Member]:
    """All methods; what else a method may be made of under two wrappers that stand for the others."""
    return [member for member in MEMBERS if not member.label or kind in {"fsdp", "fsdp-tp"}]


def cells(expected: dict, folder: Path) -> dict[str, Callable[[], dict]]:
    """Name to what is done, in the order in which all processes do it."""
    found: dict[str, Callable[[], dict]] = {}
    kinds = WRAPPERS[distributed.get_world_size()]
    for kind in kinds:
        for member in members_under(kind):
            found[f"{member}/{kind}"] = lambda m=member, k=kind: distances(trained(m, Wrapped(k)), expected[str(m)])
        found[f"clipper/{kind}"] = lambda k=kind: distances(clipped(Wrapped(k)), expected["clipper"])
    for kind in ("fsdp", "fsdp-tp"):
        found[f"rule/{kind}"] = lambda k=kind: distances(with_a_rule(Wrapped(k)), expected["rule"])
    for kind in ("fsdp", "tp"):
        for name in ("GrassWalk", "GaLore"):
            found[f"{name}/side/{kind}"] = lambda n=name, k=kind: distances(
                by_side(BY_NAME[n], Wrapped(k)), expected[f"{n}/side/{k}"]
            )
    for kind in kinds[1:]:
        found[f"non-finite/{kind}"] = lambda k=kind: non_finite(k)
    for shape in ((12, 20), (6, 8)):
        found[f"failing-rule/{shape}"] = lambda s=shape: failing_rule(s)
    for is_sum in (False, True):
        found[f"gradient-on-one/{is_sum}"] = lambda i=is_sum: gradient_on_one(i)
    found |= {"other-seeds": other_seeds, "local-on-one": local_on_one, "sums": sums}
    for member, kind in RESUMED:
        found[f"again/{member}/{kind}"] = lambda m=member, k=kind: again(m, k, folder)
        found[f"passed-on/{member}/{kind}"] = lambda m=member, k=kind: later(
            passed_on(m, k, folder), expected[str(m)][0]
        )
    for member in MEMBERS:
        found[f"received/{member}"] = lambda m=member: received(m)
        found[f"whole/{member}"] = lambda m=member: {
            "parameters": max(distance(one, expected[str(m)][0]) for one in whole_states(m, "fsdp"))
        }
    return found


def later(found: dict, expected: dict) -> dict:
    """How far the last ones of several launches are from one process."""
    return {"parameters": distance(found, expected) if distributed.get_world_size() == 1 else 0.0}


def received(member: Member) -> dict:
    """Bytes of an ordinary step of one matrix and of one that refreshes, by the shape of the matrix."""
    mesh, found = mesh_of(distributed.get_world_size()), {}
    for shape, splits in SHAPES.items():
        p = torch.nn.Parameter(distribute_tensor(torch.randn(shape).double(), mesh, [Shard(0)]))
        optimizer, counts = member.build([{"params": [("up.weight", p)], "rank": 3, "splits": splits}]), []
        for _ in range(4):
            p.grad = distribute_tensor(torch.randn(shape).double(), mesh, [Shard(0)])
            with Received() as counted:
                optimizer.step()
            counts.append(counted.bytes)
        found[str(shape)] = counts[1], max(counts[2:])
    return found


def by_side(member: Member, wrapped: Wrapped) -> tuple[dict, dict]:
    """With ``side="sharded"``."""
    optimizer = member.build(groups_of(wrapped.model, side="sharded"), **DECAY)
    train(wrapped, optimizer, range(STEPS))
    return wrapped.parameters(), states(optimizer)


def work(directory: str) -> None:
    """Run all cells in one process group; the references and the checkpoints are beside the directory."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", timeout=datetime.timedelta(seconds=300))
    folder, found = Path(directory).parent, {}
    for name, cell in cells(torch.load(folder / "references.pt"), folder).items():
        try:
            found[name] = cell()
        except Exception:
            found[name] = {"error": traceback.format_exc()}
    tell(found, directory)
