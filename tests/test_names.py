"""One name for a parameter: that in the bare model, in every part of the package, and none lost."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim.swa_utils import AveragedModel

from subspace_lab import optim
from subspace_lab._names import canonical_names, named_parameters, names_of
from subspace_lab.analysis.loss.blocks import select_blocks
from subspace_lab.capture import select_layers


class Backbone(nn.Module):
    """A model that keeps its backbone under the name of a wrapper, with the same names inside as outside."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.ModuleDict({"head": nn.Linear(4, 4), "body": nn.Linear(4, 4)})
        self.head = nn.Linear(4, 4)


class Only(nn.Module):
    """Nothing but an attribute with the name of a wrapper: the class is the user's, and so is the name."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))


class Task(nn.Module):
    """What holds a model in Lightning and the like."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Backbone()


def inside(name: str) -> Callable[[nn.Module], nn.Module]:
    """Wraps the first child and not the model."""

    def wrap(model: nn.Module) -> nn.Module:
        first = next(iter(dict(model.named_children())))
        setattr(model, first, WRAPPERS[name](getattr(model, first)))
        return model

    return wrap


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "nothing": lambda model: model,
    "compile": lambda model: torch.compile(model, backend="eager"),
    "DataParallel": nn.DataParallel,
    "checkpoint": checkpoint_wrapper,
    "average": AveragedModel,
    "both": lambda model: nn.DataParallel(torch.compile(model, backend="eager")),
}
WRAPPERS |= {f"{name} inside": inside(name) for name in ("compile", "DataParallel", "checkpoint")}


@pytest.mark.parametrize("make", [Backbone, Only, Task], ids=lambda make: make.__name__)
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_every_part_has_the_names_of_the_bare_model(make, wrap):
    bare = make()
    expected = {name: p.detach().clone().uniform_() for name, p in bare.named_parameters()}
    bare.load_state_dict(expected)
    model = wrap(copy.deepcopy(bare))
    grouped = {
        name: p
        for group in optim.param_groups(model, rank=2, exclude=())
        for name, p in zip(group["param_names"], group["params"], strict=True)
    }
    check(named_parameters(model), expected)
    check(grouped, expected)
    check({layer.name: layer.parameter for layer in select_layers(model)}, matrices(expected))
    check({block.name: block.parameters[0] for block in select_blocks(model, "*")}, expected)
    plan = {"layers": [{"layer": name, "rank": 2} for name in matrices(expected)]}
    assert len(optim.from_plan(model, plan).param_groups[0]["params"]) == len(matrices(expected))
    sizes = sum(p.numel() * 4 for p in expected.values())
    assert optim.memory_report(model, "GrassWalk", rank=2).weights == sizes
    assert sum(len(members) for members in optim.AdaptiveGroupClipper(model).groups.values()) == len(expected)


def matrices(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: p for name, p in parameters.items() if p.dim() == 2}


def check(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for name, p in found.items():
        assert torch.equal(p, expected[name]), name


def test_data_parallel_processes(tmp_path):
    """One process of its own is enough for the wrapper."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(Backbone())
        assert list(named_parameters(model)) == [name for name, _ in Backbone().named_parameters()]
    finally:
        torch.distributed.destroy_process_group()


def test_wrappers_that_are_made_by_hand():
    """A component that only wrappers use is left out whatever holds it, unless two names would become one."""
    plain, wrapped = nn.Linear(2, 2, bias=False), nn.Module()
    wrapped.add_module("_orig_mod", plain)
    assert names_of(wrapped) == {"_orig_mod.weight": "weight"}
    wrapped.weight = nn.Parameter(torch.ones(2, 2))
    assert names_of(wrapped) == {"weight": "weight", "_orig_mod.weight": "_orig_mod.weight"}


@pytest.mark.parametrize(
    ("raws", "expected"),
    [
        (["module.a.w", "module.b.w"], ["a.w", "b.w"]),
        (["_orig_mod.module.a.w"], ["a.w"]),
        (["model._orig_mod.a.w", "model._orig_mod.b"], ["model.a.w", "model.b"]),
        (["module.head.w", "head.w"], ["module.head.w", "head.w"]),
        (["module.module.head.w", "module.head.w"], ["module.head.w", "head.w"]),
        (["a._orig_mod.w", "a.module.w", "b.w"], ["a._orig_mod.w", "a.module.w", "b.w"]),
        (["module"], ["module"]),
        ([], []),
    ],
    ids=str,
)  # fmt: skip
def test_names_without_a_model(raws, expected):
    assert canonical_names(raws) == dict(zip(raws, expected, strict=True))


def optimizer_of(model: nn.Module) -> optim.GrassWalk:
    """With torch's own named parameters."""
    return optim.GrassWalk([{"params": [(n, p) for n, p in model.named_parameters() if p.dim() == 2], "rank": 2}])


def saved(model: nn.Module) -> dict:
    """The state after a step."""
    optimizer = optimizer_of(model)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    return optimizer.state_dict()


def test_a_state_goes_from_a_wrapped_model_to_the_bare_one_and_not_to_another_parameter():
    optimizer_of(Backbone()).load_state_dict(saved(nn.DataParallel(Backbone())))
    swapped = saved(Backbone())
    names = swapped["param_groups"][0]["param_names"]
    assert names == ["module.head.weight", "module.body.weight", "head.weight"]
    swapped["param_groups"][0]["param_names"] = ["head.weight", "module.body.weight", "module.head.weight"]
    with pytest.raises(ValueError, match=r"the state has head.weight where module.head.weight is expected"):
        optimizer_of(Backbone()).load_state_dict(swapped)


def test_names_with_dots_of_modules_that_were_put_in_by_force():
    model = nn.Module()
    model._modules["../a.b"] = nn.Linear(2, 3, bias=False)
    assert list(named_parameters(model)) == ["../a.b.weight"]
