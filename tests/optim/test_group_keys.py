"""Groups as torch takes them: keys of others, names or none, groups that come later."""

from __future__ import annotations

import collections
import copy

import pytest
import torch
from torch import nn

from subspace_lab import optim
from tests.optim.members import MEMBERS, check_equal, drive, every_member, gradient, groups, parameters, values
from tests.optim.test_faults import message_of

# --- keys ------------------------------------------------------------------------------------------------------------

FOREIGN = {
    "lr_scale": 0.5, "lr_mult": 2.0, "wd_multiplier": 0.0, "swa_lr": 0.05, "group_name": "layer_0", "name": "up",
    "layer_id": 3, "no_weight_decay": True, "apply_layer_decay": False, "use_muon": True, "max_lr": 0.1, "step": 7,
    "momentum": None, "is_expert": [1, 2], "betas_schedule": "cosine", "weight_lr_power": 2,
}  # fmt: skip


@every_member
def test_keys_of_others_are_kept_and_do_nothing(member):
    zoo, other = parameters(), parameters()
    optimizer = member.build([{**group, **FOREIGN} for group in groups(zoo)])
    plain = member.build(groups(other))
    drive(optimizer, zoo, range(4))
    drive(plain, other, range(4))
    check_equal(values(zoo), values(other))
    again = member.build([{**group, "lr_scale": 1.0} for group in groups(zoo)])
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one in (optimizer, again):
        for group in one.param_groups:
            assert {name: group[name] for name in FOREIGN} == FOREIGN
    assert "lr_scale=0.5" in repr(again)


@every_member
def test_what_schedulers_and_averaging_write_into_groups(member):
    """They come back when a group of one optimizer is given to another, as wrappers do."""
    zoo, optimizer = parameters(), None
    optimizer = member.build(groups(zoo))
    torch.optim.swa_utils.SWALR(optimizer, swa_lr=0.02)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
    drive(optimizer, zoo, range(1))
    cycle.step()
    again = member.build([dict(group) for group in optimizer.param_groups])
    for group, given in zip(again.param_groups, optimizer.param_groups, strict=True):
        assert group["swa_lr"] == 0.02
        assert group["max_lr"] == 0.1
        assert group["betas"] == given["betas"] != (0.9, 0.999)
        assert group["param_names"] == given["param_names"]


@every_member
@pytest.mark.parametrize(
    ("name", "means"),
    [("learning_rate", "lr"), ("update_proj_gap", "update_interval"), ("weight_deccay", "weight_decay"),
     ("Betas", "betas"), ("updateinterval", "update_interval"), ("stochastic_roundings", "stochastic_rounding")],
)  # fmt: skip
def test_a_key_that_can_only_be_a_misspelt_option(member, name, means):
    message_of(ValueError, lambda: member.build([{**groups(parameters())[0], name: 1e-3}]), name, means)


class SAM(torch.optim.Optimizer):
    """The usual pattern: the wrapper and its base optimizer share their groups, the radius among them."""

    def __init__(self, params, base, rho, **options):
        super().__init__(params, {"rho": rho, **options})
        self.base_optimizer = base(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def step(self, closure):
        moved = []
        for group in self.param_groups:
            for p in group["params"]:
                moved.append((p, p.clone()))
                p.add_(p.grad, alpha=group["rho"])
        closure()
        for p, before in moved:
            p.copy_(before)
        self.base_optimizer.step()


@pytest.mark.parametrize("member", [m for m in MEMBERS if m.name != "LDAdam"], ids=str)
@pytest.mark.parametrize("rho", [0.05, 2.0])
def test_sam_keeps_its_radius(member, rho):
    """Steps of the base optimizer on the gradients of the moved weights, as taken by hand."""
    zoo, other = parameters(), parameters()
    wrapped = SAM(groups(zoo), member.build, rho, lr=0.02)
    by_hand = member.build(groups(other), lr=0.02)

    def gradients(parameters):
        for name, p in parameters.items():
            p.grad = 2 * p.detach() + gradient(name, 0)

    for _ in range(7):
        gradients(zoo)
        wrapped.step(lambda: gradients(zoo))
        at = values(other)
        gradients({name: p.detach().add_(2 * p.detach() + gradient(name, 0), alpha=rho) for name, p in other.items()})
        moved = {name: nn.Parameter(p.detach().clone()) for name, p in other.items()}
        gradients(moved)
        for name, p in other.items():
            p.data.copy_(at[name])
            p.grad = moved[name].grad
        by_hand.step()
    assert {group["rho"] for group in wrapped.param_groups} == {rho}
    check_equal(values(zoo), values(other))


@pytest.mark.parametrize(
    "build",
    [optim.LDAdam, lambda gs, **options: optim.SubspaceAdam(gs, rule="power", **options)],
    ids=["LDAdam", "parts"],
)
def test_a_radius_is_not_taken_for_ldadams_rho(build):
    zoo = parameters()
    message_of(ValueError, lambda: SAM(groups(zoo), build, 0.05, lr=0.02), "rho", "SAM", "keyword")
    optimizer = build(groups(zoo), rho=0.5)
    assert optimizer.param_groups[0]["rho"] == 0.5
    before = values(zoo)
    optimizer.param_groups[0]["rho"] = 0.05  # by a wrapper that is made later
    message_of(ValueError, lambda: drive(optimizer, zoo, range(1)), "rho", "SAM")
    check_equal(values(zoo), before)


# --- parameters and names --------------------------------------------------------------------------------------------

Named = collections.namedtuple("Named", ["name", "parameter"])


@every_member
def test_parameters_in_every_form_that_torch_takes(member):
    forms = [
        lambda zoo: [{"params": list(zoo.items())}],
        lambda zoo: [{"params": (pair for pair in zoo.items())}],
        lambda zoo: [{"params": [Named(*pair) for pair in zoo.items()]}],
        lambda zoo: [{"params": tuple(zoo.values()), "param_names": list(zoo)}],
        lambda zoo: list(zoo.items()),
        lambda zoo: iter(zoo.items()),
    ]
    finals = []
    for form in forms:
        zoo = parameters(names=("blocks.0.wide", "blocks.1.conv"))
        optimizer = member.build(form(zoo), rank=2)
        assert optimizer.param_groups[0]["param_names"] == list(zoo)
        drive(optimizer, zoo, range(5))
        finals.append(values(zoo))
    for final in finals[1:]:
        check_equal(final, finals[0])
    p = parameters()["blocks.0.wide"]
    assert member.build([{"params": p, "rank": 2}]).param_groups[0]["params"][0] is p
    with pytest.raises(TypeError, match="ordered"):
        member.build([{"params": {p}, "rank": 2}])


@every_member
@pytest.mark.parametrize("first_has_names", [True, False])
def test_a_group_added_later_without_the_others_names(member, first_has_names):
    zoo = parameters(names=("blocks.0.wide", "blocks.0.tall"))
    first, late = ([{"params": [pair], "rank": 2}] for pair in zoo.items())
    (late if first_has_names else first)[0]["params"] = [(late if first_has_names else first)[0]["params"][0][1]]
    optimizer = member.build(first, update_interval=1)
    optimizer.add_param_group(late[0])
    names = [name for group in optimizer.param_groups for name in group["param_names"]]
    assert names == (["blocks.0.wide", "parameter 1"] if first_has_names else ["parameter 0", "blocks.0.tall"])
    before = values(zoo)
    drive(optimizer, zoo, range(4))
    assert not any(torch.equal(before[name], p) for name, p in zoo.items())
    zoo["blocks.0.tall"].grad[0, 0] = torch.nan
    message_of(optim.NonFiniteGradientError, optimizer.step, names[1])
    twin = member.build(first, update_interval=1)
    twin.add_param_group(late[0])
    twin.load_state_dict(optimizer.state_dict())
    assert [name for group in twin.param_groups for name in group["param_names"]] == names


@every_member
def test_a_group_that_is_refused_leaves_no_names_behind(member):
    zoo = parameters()
    optimizer = member.build([{"params": zoo["blocks.0.wide"], "rank": 2}])
    bad = {"params": [("late.weight", zoo["blocks.0.tall"])], "rank": -3}
    message_of(ValueError, lambda: optimizer.add_param_group(bad), "rank")
    twice = {"params": [("late.weight", zoo["blocks.0.wide"])], "rank": 2}
    message_of(ValueError, lambda: optimizer.add_param_group(twice), "more than one")
    (group,) = optimizer.param_groups
    assert "param_names" not in group


@every_member
@pytest.mark.parametrize("names", [[], ["a"], ["a", "b", "c"]])
def test_names_that_are_not_as_many_as_parameters(member, names):
    zoo = parameters()
    group = {"params": [zoo["blocks.0.wide"], zoo["blocks.0.tall"]], "param_names": names, "rank": 2}
    message_of(ValueError, lambda: member.build([group]), f"{len(names)} param_names for 2 params")


@every_member
def test_groups_given_twice_are_not_changed(member):
    zoo = parameters()
    given = groups(zoo)
    before = [dict(group) for group in given]
    member.build(given)
    assert given == before
