"""Groups edited after construction: what is not sound is refused at the next step, and nothing is changed."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch

from subspace_lab import optim
from tests.optim.members import check_equal, drive, every_member, gradient, groups, parameters, started, values
from tests.optim.test_faults import message_of

UNSOUND = [
    ("update_interval", 0), ("update_interval", None), ("splits", 0), ("splits", -1), ("lr", float("nan")),
    ("lr", -0.1), ("lr", torch.tensor(float("nan"))), ("lr", None), ("scale", float("nan")), ("scale", "big"),
    ("betas", (0.9, float("nan"))), ("betas", (1.0, 0.9)), ("betas", [0.9]), ("eps", float("inf")),
    ("weight_decay", float("nan")), ("side", "top"), ("rank", 0), ("rank", 2.5), ("seed", "x"),
    ("on_nonfinite", "ignore"), ("state_dtype", "float8"), ("stochastic_rounding", 1),
]  # fmt: skip


@every_member
@pytest.mark.parametrize(("name", "value"), UNSOUND, ids=str)
def test_values_that_are_not_sound(member, name, value):
    for steps in (0, 2):
        zoo, optimizer = started(member, steps)
        sound = optimizer.param_groups[0][name]
        optimizer.param_groups[0][name] = value
        before, state = values(zoo), str(optimizer.state_dict()["state"])
        message_of(ValueError, lambda o=optimizer, z=zoo: drive(o, z, range(2, 3)), "param_groups[0]", name)
        check_equal(values(zoo), before)
        assert str(optimizer.state_dict()["state"]) == state
        optimizer.param_groups[0][name] = sound
        drive(optimizer, zoo, range(2, 3))


@every_member
def test_values_that_change_in_place(member):
    """The list and the tensor are the same objects as before."""
    zoo = parameters()
    rates, lr = [0.9, 0.999], torch.tensor(0.01)
    optimizer = member.build(groups(zoo), betas=rates, lr=lr)
    drive(optimizer, zoo, range(2))
    held = optimizer.param_groups[0]["betas"]
    if isinstance(held, list):
        held[1] = 1.0
        message_of(ValueError, lambda: drive(optimizer, zoo, range(2, 3)), "betas")
        held[1] = 0.999
    optimizer.param_groups[1]["lr"].fill_(torch.nan)
    message_of(ValueError, lambda: drive(optimizer, zoo, range(2, 3)), "lr")


@every_member
def test_an_option_that_is_gone(member):
    zoo, optimizer = started(member, 2)
    del optimizer.param_groups[1]["eps"]
    message_of(ValueError, lambda: drive(optimizer, zoo, range(2, 3)), "param_groups[1] has lost eps")


@every_member
def test_splits_and_parameters_that_do_not_fit(member):
    if not member.has_subspaces:
        pytest.skip("blocks may hold anything")
    zoo, optimizer = started(member, 2)
    optimizer.param_groups[0]["splits"] = 5
    message_of(ValueError, lambda: drive(optimizer, zoo, range(2, 3)), "splits=5 does not divide")
    zoo, optimizer = started(member, 2)
    optimizer.param_groups[0]["params"].append(torch.nn.Parameter(torch.zeros(4, 4)))
    message_of(ValueError, lambda: drive(optimizer, zoo, range(2, 3)), "3 param_names for 4 params")


@every_member
def test_sound_edits_are_taken(member):
    """Schedules of every kind; the same as a literal loop that sets the same values on another optimizer."""
    zoo, optimizer = started(member, 0)
    other = parameters()
    by_hand = member.build(groups(other))
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=12)
    for step in range(9):
        for group, twin in zip(optimizer.param_groups, by_hand.param_groups, strict=True):
            group["weight_decay"] = 0.01 * step
            group["eps"] = 1e-8 * (1 + step)
            twin.update({name: group[name] for name in ("lr", "betas", "weight_decay", "eps")})
        drive(optimizer, zoo, range(step, step + 1))
        drive(by_hand, other, range(step, step + 1))
        cycle.step()
    assert optimizer.param_groups[0]["betas"] != (0.9, 0.999)
    check_equal(values(zoo), values(other))


@every_member
def test_copies_are_checked_too(member):
    zoo, optimizer = copy.deepcopy(started(member, 2))
    optimizer.param_groups[0]["update_interval"] = 0
    message_of(ValueError, lambda: drive(optimizer, zoo, range(2, 3)), "update_interval")


def test_an_interval_that_is_edited_in_one_group_of_badam():
    """All blocks share it; in every group it may be changed."""
    for number in (0, 1):
        zoo = parameters()
        optimizer = optim.BAdam(groups(zoo), update_interval=3)
        drive(optimizer, zoo, range(2))
        optimizer.param_groups[number]["update_interval"] = 5
        message_of(ValueError, lambda o=optimizer, z=zoo: drive(o, z, range(1)), "same in all groups", "3", "5")
        optimizer.param_groups[1 - number]["update_interval"] = 5
        drive(optimizer, zoo, range(2, 4))


def test_a_rule_that_there_is_not():
    zoo = parameters(names=("blocks.0.wide",))
    optimizer = optim.SubspaceAdam(groups(zoo))
    zoo["blocks.0.wide"].grad = gradient("blocks.0.wide", 0)
    optimizer.step()
    optimizer.param_groups[0]["rule"] = "newton"
    message_of(ValueError, optimizer.step, "newton")


@every_member
@pytest.mark.parametrize("number", [np.float64(0.02), np.float32(0.02), np.array(0.02), np.array([0.02])], ids=repr)
def test_numbers_of_numpy_are_numbers(member, number):
    """A schedule by numpy: given or set, the state that is saved loads without trusting its source."""
    for given in ({}, {"lr": number, "weight_decay": number}):
        zoo = parameters()
        optimizer = member.build(groups(zoo), **given)
        optimizer.param_groups[0] |= {"lr": number, "eps": number}
        optimizer.param_groups[1] |= {"weight_decay": number, "betas": (number, np.float64(0.9))}
        drive(optimizer, zoo, range(1))
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)["param_groups"]
        assert saved[0]["lr"] == saved[0]["eps"] == saved[1]["weight_decay"] == pytest.approx(0.02)
        assert saved[1]["betas"] == pytest.approx((0.02, 0.9))


@every_member
@pytest.mark.parametrize("name", ["lr", "eps", "weight_decay", "scale"])
@pytest.mark.parametrize("value", [10**400, 1e308, torch.tensor(1.0, device="meta")], ids=["huge", "double", "meta"])
def test_numbers_that_float32_cannot_hold(member, name, value):
    message_of(ValueError, lambda: member.build(groups(parameters()), **{name: value}), name)
    zoo, optimizer = started(member, 1)
    optimizer.param_groups[0][name] = value
    message_of(ValueError, lambda: drive(optimizer, zoo, range(1, 2)), "param_groups[0]", name)


@pytest.mark.parametrize("value", [[], {}, np.array([1, 2]), torch.tensor([1.0, 2.0])], ids=repr)
def test_parts_and_weights_that_are_no_words_or_numbers(value):
    for name in ("moments", "recovery", "rule"):
        for build in (
            lambda n=name: optim.SubspaceAdam(groups(parameters()), **{n: value}),
            lambda n=name: optim.SubspaceAdam([{**groups(parameters())[0], n: value}]),
        ):
            message_of(ValueError, build, name)
    message_of(ValueError, lambda: optim.LDAdam([{**groups(parameters())[0], "rho": value}]), "rho")
    message_of(ValueError, lambda: optim.RSO(groups(parameters()), prox=1e-320), "prox")
