"""States as other tools save, convert and load them: distributed checkpoints, hooks, dtypes, numbers for tensors."""

from __future__ import annotations

import copy
import io
import warnings

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from subspace_lab import optim
from tests.optim.members import (
    MEMBERS,
    check_equal,
    drive,
    every_member,
    gradient,
    groups,
    parameters,
    started,
    values,
)
from tests.optim.test_faults import message_of

every_member_with_subspaces = pytest.mark.parametrize("member", [m for m in MEMBERS if m.has_subspaces], ids=str)


class Zoo(nn.Module):
    """The zoo as a model, which distributed checkpoints need for names; gradients are fixed."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.tall = (nn.Parameter(p) for p in list(parameters().values())[:2])
        self.bias = nn.Parameter(parameters()["norm.bias"])

    def drive(self, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            for p, name in zip(self.parameters(), ("blocks.0.wide", "blocks.0.tall", "norm.bias"), strict=True):
                p.grad = gradient(name, step)
            optimizer.step()
            optimizer.zero_grad()

    def groups(self) -> list[dict]:
        return [
            {"params": [("wide", self.wide), ("tall", self.tall)], "rank": 2},
            {"params": [("bias", self.bias)], "rank": None},
        ]


def check_same_models(one: nn.Module, other: nn.Module) -> None:
    check_equal(*({name: p.detach() for name, p in model.named_parameters()} for model in (one, other)))


# --- distributed checkpoints -----------------------------------------------------------------------------------------


@every_member_with_subspaces
@pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])
@pytest.mark.parametrize("stop", [2, 5])
def test_a_distributed_checkpoint_resumes_bit_for_bit(member, flat, stop, tmp_path):
    """Into a new optimizer, whose state torch makes by a step on gradients of zero."""
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    model = Zoo()
    optimizer = member.build(model.groups(), weight_decay=0.1)
    model.drive(optimizer, range(stop))
    saved = {"o": get_optimizer_state_dict(model, optimizer, options=options), "m": model.state_dict()}
    with warnings.catch_warnings(action="ignore"):
        dcp.save(saved, checkpoint_id=tmp_path, no_dist=True)
        again = Zoo()
        fresh = member.build(again.groups(), weight_decay=0.1)
        state = {"o": get_optimizer_state_dict(again, fresh, options=options), "m": again.state_dict()}
        check_same_models(again, Zoo())
        dcp.load(state, checkpoint_id=tmp_path, no_dist=True)
    again.load_state_dict(state["m"])
    set_optimizer_state_dict(again, fresh, state["o"], options=options)
    model.drive(optimizer, range(stop, 11))
    again.drive(fresh, range(stop, 11))
    check_same_models(again, model)


@every_member
@pytest.mark.parametrize("settings", [{}, {"lr": torch.tensor(0.02)}, {"update_interval": 1}, {"eps": 0.0}], ids=str)
def test_states_made_before_the_first_step_change_nothing(member, settings):
    """Asked for its state at the start, an optimizer has all of it, and the training is the same one."""
    model, other = Zoo(), Zoo()
    optimizer = member.build(model.groups(), weight_decay=0.1, **settings)
    named = get_optimizer_state_dict(model, optimizer)["state"]
    check_same_models(model, other)
    active = {"wide", "tall", "bias"} if member.has_subspaces else {optimizer.active_block()}
    assert {name for name, state in named.items() if state} == active
    assert all(state["step"] == 0 for state in optimizer.state.values())
    plain = member.build(other.groups(), weight_decay=0.1, **settings)
    model.drive(optimizer, range(9))
    other.drive(plain, range(9))
    check_same_models(model, other)


@every_member_with_subspaces
def test_zero_gradients_at_a_learning_rate_make_the_state_and_count_no_step(member):
    p = parameters()["blocks.0.wide"]
    optimizer = member.build([{"params": [p], "rank": 2}])
    p.grad = torch.zeros_like(p)
    before = p.detach().clone()
    optimizer.step()
    assert set(optimizer.state[p]) == member.keys
    assert optimizer.state[p]["step"] == 0
    assert torch.equal(p, before)


def test_badam_as_a_whole_through_a_distributed_checkpoint(tmp_path):
    """Its state is that of the active block, so that there is nothing to fill in place: the state dict as one value."""
    model = Zoo()
    optimizer = optim.BAdam(model.groups(), lr=0.01, update_interval=3)
    model.drive(optimizer, range(5))
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    again = Zoo()
    fresh = optim.BAdam(again.groups(), lr=0.01, update_interval=3)
    with warnings.catch_warnings(action="ignore"):
        dcp.save({"o": buffer.getvalue(), "m": model.state_dict()}, checkpoint_id=tmp_path, no_dist=True)
        state = {"o": b"", "m": again.state_dict()}
        dcp.load(state, checkpoint_id=tmp_path, no_dist=True)
    again.load_state_dict(state["m"])
    fresh.load_state_dict(torch.load(io.BytesIO(state["o"]), weights_only=True))
    model.drive(optimizer, range(5, 12))
    again.drive(fresh, range(5, 12))
    check_same_models(again, model)


# --- dtypes and kinds of numbers -------------------------------------------------------------------------------------


@every_member
@pytest.mark.parametrize("saved_as", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_state_loaded_into_weights_of_another_dtype(member, saved_as, dtype):
    """It is kept as if the weights had been of that dtype all along, and goes on as one that was cast by hand."""
    zoo, optimizer = started(member, 4, saved_as)
    other = {name: nn.Parameter(p.detach().to(dtype)) for name, p in zoo.items()}
    loaded = member.build(groups(other))
    loaded.load_state_dict(optimizer.state_dict())
    made = started(member, 4, dtype)[1]
    state, expected, source = (o.state_dict()["state"] for o in (loaded, made, optimizer))
    assert state.keys() == expected.keys() == source.keys()
    for index, entries in state.items():
        for key, value in entries.items():
            if isinstance(value, torch.Tensor):
                assert value.dtype == expected[index][key].dtype, key
                assert torch.equal(value, source[index][key].to(value.dtype)), key
    drive(loaded, other, range(4, 9))
    assert all(p.dtype == dtype and p.isfinite().all() for p in other.values())
    assert all(int(state["step"]) <= 9 for state in loaded.state.values())


@every_member
@pytest.mark.parametrize(
    "convert",
    [int, float, torch.tensor, lambda n: torch.tensor([float(n)]), lambda n: torch.tensor(n, dtype=torch.float64)],
    ids=["int", "float", "int64 tensor", "one element", "float64 tensor"],
)
def test_counts_as_numbers_or_as_tensors(member, convert):
    zoo, optimizer = started(member, 4)
    state = copy.deepcopy(optimizer.state_dict())
    for entries in state["state"].values():
        for key in ("step", "refreshes"):
            if key in entries:
                entries[key] = convert(int(entries[key]))
    other = {name: nn.Parameter(p.detach().clone()) for name, p in zoo.items()}
    loaded = member.build(groups(other))
    loaded.load_state_dict(state)
    for name, p in zoo.items():
        one, two = optimizer.state.get(p, {}), loaded.state.get(other[name], {})
        for key in {"step", "refreshes"} & set(one):
            assert type(two[key]) is type(one[key])
            assert two[key] == one[key]
    drive(optimizer, zoo, range(4, 9))
    drive(loaded, other, range(4, 9))
    check_equal(values(zoo), values(other))


# --- hooks -----------------------------------------------------------------------------------------------------------


@every_member
def test_load_hooks_see_and_change_what_is_loaded(member):
    """As torch has it: a hook before may adapt the state, in place or by another one; a hook after sees the result."""
    zoo, optimizer = started(member, 4)
    state = optimizer.state_dict()
    seen = []

    def doubled(_, given):
        new = {i: {k: 2 * v if k == "exp_avg" else v for k, v in s.items()} for i, s in given["state"].items()}
        return {**given, "state": new}

    def scaled_in_place(_, given):
        given["param_groups"] = [{**group, "lr": 0.25} for group in given["param_groups"]]

    loaded = member.build(groups(zoo))
    handles = [
        loaded.register_load_state_dict_pre_hook(doubled),
        loaded.register_load_state_dict_pre_hook(scaled_in_place),
        loaded.register_load_state_dict_post_hook(lambda o: seen.append(copy.deepcopy(o.state_dict()))),
    ]
    loaded.load_state_dict(state)
    assert len(seen) == 1
    for index, entries in optimizer.state_dict()["state"].items():
        assert torch.equal(seen[0]["state"][index]["exp_avg"], 2 * entries["exp_avg"])
        assert torch.equal(loaded.state_dict()["state"][index]["exp_avg"], 2 * entries["exp_avg"])
    assert {group["lr"] for group in loaded.param_groups} == {0.25}
    for handle in handles:
        handle.remove()
    loaded.load_state_dict(state)
    assert len(seen) == 1
    assert {group["lr"] for group in loaded.param_groups} == {0.01}


@every_member
def test_state_hooks_and_step_hooks_run(member):
    zoo, optimizer = started(member, 2)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    optimizer.register_state_dict_post_hook(lambda _, state: {**state, "note": 1})
    drive(optimizer, zoo, range(2, 3))
    assert calls == ["pre", "post"]
    state = optimizer.state_dict()
    assert state["note"] == 1
    optimizer.load_state_dict(state)


# --- what cannot be loaded -------------------------------------------------------------------------------------------


def spoiled(member, key: str, spoil) -> tuple[torch.optim.Optimizer, dict]:
    optimizer = started(member, 4)[1]
    state = copy.deepcopy(optimizer.state_dict())
    entries = next(s for s in state["state"].values() if key in s)
    entries[key] = spoil(entries[key])
    return optimizer, state


@every_member
@pytest.mark.parametrize("value", [float("nan"), -1, 2.5, float("inf"), torch.tensor(torch.nan), None, "4"], ids=str)
def test_steps_that_are_no_count(member, value):
    for key in ("step", "refreshes") if member.has_subspaces else ("step",):
        optimizer, state = spoiled(member, key, lambda _: value)
        before = copy.deepcopy(optimizer.state_dict())
        message_of(ValueError, lambda o=optimizer, s=state: o.load_state_dict(s), key, "whole number")
        assert str(before) == str(optimizer.state_dict())


@every_member
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_moments_that_are_not_finite(member, bad):
    for key in ("exp_avg", "exp_avg_sq"):
        optimizer, state = spoiled(member, key, lambda v: v.flatten().index_fill(0, torch.tensor([1]), bad).view_as(v))
        message_of(ValueError, lambda o=optimizer, s=state: o.load_state_dict(s), "1 NaN or Inf", key)


@every_member
def test_a_negative_second_moment(member):
    optimizer, state = spoiled(member, "exp_avg_sq", lambda v: v - 10)
    message_of(ValueError, lambda: optimizer.load_state_dict(state), "negative", "exp_avg_sq")


@every_member
@pytest.mark.parametrize(
    ("name", "value"),
    [("lr", float("nan")), ("lr", -1.0), ("update_interval", 0), ("betas", (0.9, float("nan"))), ("scale", None),
     ("eps", float("inf")), ("seed", "x")],
    ids=str,
)  # fmt: skip
def test_saved_settings_that_are_not_sound(member, name, value):
    optimizer = started(member, 4)[1]
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0][name] = value
    before = copy.deepcopy(optimizer.state_dict())
    message_of(ValueError, lambda: optimizer.load_state_dict(state), name)
    assert str(before) == str(optimizer.state_dict())


@every_member
@pytest.mark.parametrize(("name", "value"), [("side", "right"), ("side", "left"), ("splits", 2), ("rank", 1)], ids=str)
def test_a_state_of_another_side_or_split(member, name, value):
    """Of a square matrix: the shapes are the same on both sides, and only the setting tells."""
    if not member.has_subspaces:
        pytest.skip("a block has neither")

    def build(**settings):
        p = nn.Parameter(torch.zeros(8, 8))
        return p, member.build([{"params": [("w", p)], "rank": 2, **settings}])

    p, optimizer = build()
    p.grad = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    q, other = build(**{name: value})
    message_of(ValueError, lambda: other.load_state_dict(optimizer.state_dict()), name, repr(value))
    assert not other.state
    assert other.param_groups[0][name] == value
    q.grad = p.grad
    other.step()


@pytest.mark.parametrize("taken", [float("nan"), -3, None, 1.5])
def test_blocks_whose_turn_is_no_count(taken):
    zoo = parameters()
    optimizer = optim.BAdam(groups(zoo))
    state = copy.deepcopy(optimizer.state_dict())
    for group in state["param_groups"]:
        group["steps_taken"] = taken
    message_of(ValueError, lambda: optimizer.load_state_dict(state), "steps_taken", "whole number")


@every_member
def test_settings_that_an_older_state_lacks_are_those_of_the_optimizer(member):
    zoo, optimizer = started(member, 4)
    state = copy.deepcopy(optimizer.state_dict())
    for group in state["param_groups"]:
        del group["eps"], group["on_nonfinite"]
    optimizer.load_state_dict(state)
    drive(optimizer, zoo, range(4, 9))
    check_equal(values(zoo), values(started(member, 9)[0]))


@every_member
def test_a_step_that_is_a_number_of_numpy(member):
    """As tools that convert states to arrays leave it."""
    zoo, optimizer = started(member, 4)
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        state |= {key: np.int64(int(state[key])) for key in ("step", "refreshes") if key in state}
    other = parameters()
    for name, p in other.items():
        p.data.copy_(zoo[name].detach())
    resumed = member.build(groups(other))
    resumed.load_state_dict(saved)
    drive(optimizer, zoo, range(4, 7))
    drive(resumed, other, range(4, 7))
    check_equal(values(other), values(zoo))
