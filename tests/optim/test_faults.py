"""Bad input gets one line that names what was expected and what was given, and changes nothing."""

from __future__ import annotations

import copy
import dataclasses
import re
import warnings

import pytest
import torch

from subspace_lab import optim
from tests.optim.members import MEMBERS, Member, check_equal, drive, gradient, groups, parameters, values

every_member = pytest.mark.parametrize("member", MEMBERS, ids=str)


def message_of(error: type[Exception], act, *expected: str) -> str:
    """The message of an error, which must be one line and contain what is expected."""
    with pytest.raises(error) as caught:
        act()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400, message
    for part in expected:
        assert part in message, message
    return message


# --- settings --------------------------------------------------------------------------------------------------------

EVERYWHERE = [
    ("rank", 0), ("rank", -1), ("rank", 2.5), ("rank", True), ("rank", "8"),
    ("update_interval", 0), ("update_interval", -5), ("update_interval", 1.5), ("update_interval", None),
    ("betas", (1.0, 0.999)), ("betas", (0.9, 1.0)), ("betas", (-0.1, 0.9)), ("betas", (0.9,)), ("betas", 0.9),
    ("lr", -1e-3), ("lr", float("nan")), ("lr", float("inf")), ("lr", "fast"),
    ("eps", -1e-8), ("weight_decay", -0.1), ("scale", -0.25), ("scale", float("nan")), ("scale", None),
    ("side", "top"), ("side", None), ("state_dtype", "float8"), ("state_dtype", torch.float32),
    ("splits", 0), ("splits", 1.5), ("stochastic_rounding", "yes"), ("on_nonfinite", "ignore"), ("seed", 1.5),
    ("seed", "x"), ("seed", True), ("lr", torch.tensor([0.1, 0.2])), ("lr", True), ("scale", True),
    ("betas", torch.tensor([0.9, 0.99])),
]  # fmt: skip
BY_METHOD = [
    ("GrassWalk", "walk_step", -0.1), ("GrassWalk", "walk_step", float("inf")), ("GrassWalk", "walk_step", None),
    ("GrassWalk", "zeta", True), ("SubTrack", "step_size", True), ("GoLore", "random_after", True),
    ("LDAdam", "rho", True), ("FRUGAL", "density", True), ("RSO", "prox", True),
    ("GrassWalk", "zeta", 0.5), ("GrassWalk", "zeta", float("nan")), ("GrassWalk", "recovery_scale", -1.0),
    ("GrassJump", "transport", "exact"), ("SubTrack", "step_size", -1.0), ("SubTrack", "step_size", "auto"),
    ("SubTrack", "step_size", None), ("GoLore", "random_after", -1), ("GoLore", "random_after", 1.5),
    ("LDAdam", "rho", 1.5), ("LDAdam", "rho", -0.1), ("Fira", "zeta", 0.0), ("APOLLO", "scaling", "row"),
    ("APOLLO", "limiter", "before"), ("Fira", "limiter", None), ("SubspaceAdam", "limiter", True),
    ("APOLLO", "zeta", 0.9),
    ("OnlineSubspaceDescent", "basis_lr_scale", -1.0),
    ("OnlineSubspaceDescent", "orthogonality", -1.0), ("RSO", "prox", 0.0), ("RSO", "prox", -1.0),
    ("SubspaceAdam", "rule", "newton"), ("SubspaceAdam", "moments", "forget"), ("SubspaceAdam", "recovery", "magic"),
]  # fmt: skip


def options_of(member: Member) -> set[str]:
    """What a member may be given at all."""
    return set(member.build(groups(parameters())).defaults)


@every_member
@pytest.mark.parametrize(("name", "value"), EVERYWHERE, ids=str)
def test_values_out_of_range(member, name, value):
    if name not in options_of(member):
        pytest.skip(f"{member.name} has no {name}")
    message_of(ValueError, lambda: member.build(list(parameters().values())[:2], **{name: value}), name, repr(value))
    zoo = parameters()
    group = {**groups(zoo)[0], name: value}
    message_of(ValueError, lambda: member.build([group]), name, repr(value))


@pytest.mark.parametrize("method", ["GrassJump", "Fira", "APOLLO", "SubspaceAdam"])
def test_a_setting_of_the_limiter_where_it_is_switched_off(method):
    build, before = getattr(optim, method), {"limiter": "before_bias_correction"}
    expected = ("limiter='before_bias_correction' has no effect with zeta=None", "leave one out")
    message_of(ValueError, lambda: build(groups(parameters()), zeta=None, **before), *expected)
    in_group = [{**groups(parameters())[0], "zeta": None}]
    message_of(ValueError, lambda: build(in_group, **before), *expected)
    zoo = parameters()
    optimizer = build(groups(zoo), update_interval=3, **before)
    drive(optimizer, zoo, range(4))
    kept = values(zoo)
    optimizer.param_groups[0]["zeta"] = None
    message_of(ValueError, lambda: drive(optimizer, zoo, range(4, 5)), *expected)
    check_equal(values(zoo), kept)


def test_a_setting_of_the_limiter_where_there_is_none():
    before = {"limiter": "before_bias_correction"}
    message_of(ValueError, lambda: optim.GaLore(groups(parameters()), **before), "GaLore has no option 'limiter'")
    without = {"rule": "svd", "recovery": "sign"}
    message_of(ValueError, lambda: optim.SubspaceAdam(groups(parameters()), **without, **before), "no option 'limiter'")


@pytest.mark.parametrize(("method", "name", "value"), BY_METHOD, ids=str)
def test_values_of_one_method_out_of_range(method, name, value):
    member = next(member for member in MEMBERS if member.name == method)
    member = dataclasses.replace(member, options={})
    message_of(ValueError, lambda: member.build(groups(parameters()), **{name: value}), name, repr(value))


@every_member
def test_options_that_there_are_not(member):
    message = message_of(
        (ValueError, TypeError), lambda: member.build(groups(parameters()), walk_stepp=0.1), member.name, "walk_stepp"
    )
    assert "lr" in message, "it lists what there is"
    message_of((ValueError, TypeError), lambda: member.build([{**groups(parameters())[0], "decay": 0.1}]), "decay")


@every_member
@pytest.mark.parametrize("name", ["foreach", "fused", "maximize", "capturable", "differentiable", "amsgrad"])
def test_torchs_own_switches_are_not_taken_nor_ignored(member, name):
    for value in (True, None):
        group = {**groups(parameters())[0], name: value}
        message = message_of(ValueError, lambda group=group: member.build([group]), name)
        assert "nearest" not in message or name == "fused", "nothing is near, and only seed is like fused"


def test_an_option_of_a_part_that_is_not_in_use():
    act = lambda: optim.SubspaceAdam(groups(parameters()), rule="svd", walk_step=0.1)  # noqa: E731
    message_of(ValueError, act, "walk_step", "svd")


@every_member
def test_a_refused_group_is_not_half_added(member):
    zoo = parameters()
    optimizer = member.build(groups(zoo))
    late = torch.nn.Parameter(torch.zeros(4, 5))
    bad = {"params": [("late.weight", late)], "rank": -3}
    message_of(ValueError, lambda: optimizer.add_param_group(bad), "rank", "-3")
    assert len(optimizer.param_groups) == 2
    optimizer.add_param_group({"params": [("late.weight", late)], "rank": 2})
    assert len(optimizer.param_groups) == 3


@every_member
def test_vectors_have_no_rank(member):
    if not member.has_subspaces:
        pytest.skip("blocks may hold anything")
    vector = torch.nn.Parameter(torch.zeros(7))
    message_of(
        ValueError, lambda: member.build([{"params": [("norm.weight", vector)], "rank": 2}]), "norm.weight", "(7,)"
    )


@every_member
def test_a_model_in_the_place_of_groups(member):
    message_of(TypeError, lambda: member.build(torch.nn.Linear(4, 6)), member.name, "Linear", "param_groups(model")


@every_member
def test_parameters_without_any_word_of_a_rank_are_warned_about(member):
    """They would all be stepped by AdamW, and nobody would know."""
    ps = list(parameters().values())
    if not member.has_subspaces:
        with warnings.catch_warnings(action="error"):
            member.build(ps)
        return
    with pytest.warns(
        UserWarning, match=f"no group has a rank, so that this {member.name} is full-rank AdamW"
    ) as caught:
        getattr(optim, member.name)(ps, lr=0.1)
    assert [w.filename for w in caught] == [__file__], "it points at the line of the caller"
    with warnings.catch_warnings(action="error"):
        member.build(ps, rank=None)
        member.build([{"params": ps, "rank": None}])
        member.build(iter(groups(parameters())))


@pytest.mark.parametrize(
    "rule",
    [None, 3, object(), type("Rule", (), {"first": 0, "refresh": 0}), dict],
    ids=["None", "number", "object", "class", "dict"],
)
def test_a_rule_that_is_none(rule):
    zoo = groups(parameters())
    message_of(
        ValueError, lambda: optim.SubspaceAdam(zoo, rule=rule), "rule must be one of 'coordinates'", "first and refresh"
    )
    message_of(ValueError, lambda: optim.SubspaceAdam([{**zoo[0], "rule": rule}]), "rule must be one of 'coordinates'")


@pytest.mark.parametrize(
    ("given", "got"), [(torch.ones(6, 1), r"(6, 1)"), (torch.eye(6), "(6, 6)"), (None, "NoneType")]
)
def test_a_rule_that_gives_no_basis(given, got):
    class Broken:
        def first(self, G, rank, context):
            return given

        def refresh(self, S, G, context):
            return given

    zoo = parameters(names=("blocks.0.wide",))
    for rule, steps in ((Broken(), 1), (LateBroken(given), 4)):
        optimizer = optim.SubspaceAdam(groups(zoo), rule=rule, update_interval=3)
        name = type(rule).__name__
        message_of(ValueError, lambda o=optimizer, n=steps: drive(o, zoo, range(n)), name, got, "shape (6, 2)")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda S, G: (S, S.mT @ S, S), "gave tuple where a basis"),
        (lambda S, G: S * float("nan"), "not orthonormal, S^T S is up to nan off"),
        (lambda S, G: 2 * S, "not orthonormal, S^T S is up to 3 off the identity"),
        (lambda S, G: torch.ones(6, 2, dtype=torch.long), "gave torch.int64 where a basis of floating-point numbers"),
        (lambda S, G: S.cfloat(), "gave torch.complex64"),
    ],
)
def test_a_rule_whose_later_basis_is_none(change, expected):
    class Late(LateBroken):
        def refresh(self, S, G, context):
            return change(S, G)

    zoo = parameters(names=("blocks.0.wide",))
    optimizer = optim.SubspaceAdam(groups(zoo), rule=Late(None), update_interval=3)
    message_of(ValueError, lambda: drive(optimizer, zoo, range(4)), "the rule Late gave", expected)


class LateBroken:
    """A sound basis at first."""

    def __init__(self, given):
        self.given = given

    def first(self, G, rank, context):
        return torch.eye(len(G))[:, :rank]

    def refresh(self, S, G, context):
        return self.given


@every_member
def test_what_is_no_group(member):
    p = torch.nn.Parameter(torch.zeros(4, 6))
    message_of(
        ValueError, lambda: member.build([{"rank": 2}]), "a group is a dict with 'params', got the keys ['rank']"
    )
    message_of(ValueError, lambda: member.build([{"params": [p], "rank": 2}, p]), "with 'params', got Parameter")


@every_member
@pytest.mark.parametrize(
    "given",
    [torch.zeros(0, 5), torch.zeros(5, 0), torch.zeros(4, 4, dtype=torch.cfloat)],
    ids=lambda p: f"{tuple(p.shape)}",
)
def test_matrices_without_entries_or_of_complex_ones(member, given):
    if not member.has_subspaces and given.is_floating_point():
        pytest.skip("blocks may hold anything real")
    group = {"params": [("layer.weight", torch.nn.Parameter(given))], "rank": 2}
    message_of(ValueError, lambda: member.build([group]), "layer.weight", "real")


@every_member
def test_no_parameters(member):
    message_of(ValueError, lambda: member.build([]), "empty")


# --- gradients -------------------------------------------------------------------------------------------------------


@every_member
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["blocks.0.tall", "norm.bias"])
def test_a_nonfinite_gradient_is_named_and_nothing_changes(member, bad, where):
    zoo = parameters()
    optimizer = member.build(groups(zoo), weight_decay=0.1)
    for first in (0, 2):  # before the first step, and amid training
        drive(optimizer, zoo, range(first))
        before, state = values(zoo), copy.deepcopy(optimizer.state_dict()["state"])
        for name, p in zoo.items():
            p.grad = gradient(name, 99)
        zoo[where].grad.view(-1)[1:3] = bad
        message = message_of(optim.NonFiniteGradientError, optimizer.step, where)
        assert re.search(r"\b2 of \d+", message), "how many entries"
        assert "skip" in message, "the way out"
        for name, p in zoo.items():
            assert torch.equal(p.detach(), before[name])
        after = optimizer.state_dict()["state"]
        assert after.keys() == state.keys()
        for index, entries in state.items():
            for key, value in entries.items():
                assert torch.equal(torch.as_tensor(after[index][key]), torch.as_tensor(value)), key


@every_member
def test_a_nonfinite_gradient_skips_the_step_when_asked_to(member):
    zoo, other = parameters(), parameters()
    optimizer = member.build(groups(zoo), on_nonfinite="skip")
    plain = member.build(groups(other), on_nonfinite="skip")
    for step in range(8):
        if step in {0, 4}:
            for name, p in zoo.items():
                p.grad = gradient(name, 99)
            zoo["blocks.1.conv"].grad[0, 0, 0, 0] = float("nan")
            optimizer.step()
        drive(optimizer, zoo, range(step, step + 1))
        drive(plain, other, range(step, step + 1))
    for name, p in zoo.items():
        assert torch.equal(p, other[name]), name


@every_member
def test_gradients_whose_sum_overflows_are_still_finite(member):
    """3e38 and 3e38 add up to Inf: only the entries count."""
    p = torch.nn.Parameter(torch.zeros(4, 6))
    optimizer = member.build([{"params": [("w", p)], "rank": 2}])
    p.grad = torch.full((4, 6), 1e18) * gradient("blocks.0.wide", 0)[:4, :6].sign()
    p.grad[0, 0] = 2e18
    optimizer.step()
    assert p.detach().isfinite().all()
    assert p.detach().any()


@every_member
def test_parameters_without_names_are_named_by_place_and_shape(member):
    p = torch.nn.Parameter(torch.zeros(4, 6))
    optimizer = member.build([{"params": [p], "rank": 2}])
    p.grad = torch.full((4, 6), float("nan"))
    message_of(optim.NonFiniteGradientError, optimizer.step, "(4, 6)", "24 of 24")


# --- saved states ----------------------------------------------------------------------------------------------------


def trained(member: Member, names: tuple[str, ...], steps: int = 2, rank: int = 2) -> torch.optim.Optimizer:
    zoo = parameters(names=names)
    optimizer = member.build(groups(zoo, rank))
    drive(optimizer, zoo, range(steps))
    return optimizer


@every_member
def test_a_rank_that_is_changed_after_the_first_step(member):
    """The states have their shapes: the new rank would be gone without a word."""
    zoo = parameters(names=("blocks.0.wide",))
    optimizer = member.build(groups(zoo))
    drive(optimizer, zoo, range(2))
    before = values(zoo)
    optimizer.param_groups[0]["rank"] += 1
    if not member.has_subspaces:
        drive(optimizer, zoo, range(2, 3))
        return
    message_of(ValueError, lambda: drive(optimizer, zoo, range(2, 3)), "blocks.0.wide", "rank", "build a new optimizer")
    check_equal(before, values(zoo))


@every_member
def test_a_state_of_another_method(member):
    state = trained(member, ("blocks.0.wide",)).state_dict()
    other = next(other for other in MEMBERS if other.name != member.name)
    optimizer = other.build(groups(parameters(names=("blocks.0.wide",))))
    message_of(ValueError, lambda: optimizer.load_state_dict(state), member.name, other.name)
    assert not optimizer.state
    adamw = torch.optim.AdamW(parameters(names=("blocks.0.wide",)).values())
    message_of(ValueError, lambda: optimizer.load_state_dict(adamw.state_dict()), other.name)


@every_member
def test_a_state_of_another_shape(member):
    state = trained(member, ("blocks.0.wide",)).state_dict()
    optimizer = member.build(groups(parameters(names=("blocks.0.tall",))))
    message = message_of(ValueError, lambda: optimizer.load_state_dict(state), "shape", "blocks.0.tall")
    assert len(re.findall(r"\(\d+, \d+\)", message)) >= 2, "expected and got"
    assert not optimizer.state


@every_member
def test_a_state_of_another_number_of_parameters(member):
    state = trained(member, ("blocks.0.wide", "blocks.0.tall")).state_dict()
    optimizer = member.build(groups(parameters(names=("blocks.0.wide",))))
    message_of(ValueError, lambda: optimizer.load_state_dict(state), "group")
    assert not optimizer.state


@every_member
def test_a_state_that_lacks_something(member):
    state = trained(member, ("blocks.0.wide",)).state_dict()
    (index,) = [index for index, entries in state["state"].items() if entries]
    del state["state"][index]["exp_avg"]
    optimizer = member.build(groups(parameters(names=("blocks.0.wide",))))
    message_of(ValueError, lambda: optimizer.load_state_dict(state), "exp_avg")
    assert not optimizer.state


@every_member
@pytest.mark.parametrize("junk", [None, [], {}, {"state": {}}], ids=str)
def test_a_state_that_is_none(member, junk):
    optimizer = trained(member, ("blocks.0.wide",))
    message_of(ValueError, lambda: optimizer.load_state_dict(junk), "'state' and 'param_groups'")


@every_member
def test_a_state_of_another_rank(member):
    """torch would load the rank, too, and the one that was asked for would be gone without a word."""
    state = trained(member, ("blocks.0.wide",)).state_dict()
    optimizer = member.build(groups(parameters(names=("blocks.0.wide",)), rank=3))
    if not member.has_subspaces:
        optimizer.load_state_dict(state)
        return
    message_of(ValueError, lambda: optimizer.load_state_dict(state), "rank=2", "expected 3")
    assert not optimizer.state
    assert optimizer.param_groups[0]["rank"] == 3


def test_a_state_of_other_parts():
    zoo = groups(parameters(names=("blocks.0.wide",)))
    state = optim.SubspaceAdam(zoo, rule="svd", recovery="none").state_dict()
    for more, expected in (({}, "rule='svd'"), ({"rule": "svd"}, "recovery='none'")):
        message_of(ValueError, lambda m=more: optim.SubspaceAdam(zoo, **m).load_state_dict(state), expected)


@every_member
def test_a_state_of_another_parameter_of_the_same_shape(member):
    first, second = (torch.nn.Parameter(torch.zeros(4, 6)) for _ in range(2))
    optimizer = member.build([{"params": [("a.weight", first), ("b.weight", second)], "rank": 2}])
    for p in (first, second):
        p.grad = torch.ones(4, 6)
    optimizer.step()
    turned = member.build([{"params": [("b.weight", second), ("a.weight", first)], "rank": 2}])
    message_of(ValueError, lambda: turned.load_state_dict(optimizer.state_dict()), "a.weight", "b.weight")
    assert not turned.state
    wrapped = member.build([{"params": [("module.a.weight", first), ("b._orig_mod.weight", second)], "rank": 2}])
    wrapped.load_state_dict(optimizer.state_dict())
