"""What random draws depend on: the seed, and the parameter by its name where it has one; nothing else."""

from __future__ import annotations

import pytest
import torch

from subspace_lab import optim
from subspace_lab.optim.random import normal_draw
from tests.optim.members import (
    MEMBERS,
    ZOO,
    check_equal,
    drive,
    every_member,
    gradient,
    groups,
    parameters,
    started,
    values,
)

RANDOM = [member for member in MEMBERS if member.is_random and member.has_subspaces]
every_random_member = pytest.mark.parametrize("member", RANDOM, ids=str)
OF_A_LAYER = [member for member in MEMBERS if member.has_subspaces]


@pytest.mark.parametrize("member", OF_A_LAYER, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_one_optimizer_per_parameter_does_what_one_for_all_does(member, dtype, prefix):
    """As gradient release and sharded optimizers have it, in any order, whatever wraps the model."""
    rounded = {"stochastic_rounding": dtype == torch.bfloat16}
    together, _ = started(member, 9, dtype, **rounded)
    apart = parameters(dtype)
    for name in reversed(ZOO):
        rank = 2 if ZOO[name][1] else None
        alone = member.build([{"params": [(prefix + name, apart[name])], "rank": rank}], **rounded)
        drive(alone, {name: apart[name]}, range(9))
    check_equal(values(together), values(apart))


@pytest.mark.parametrize("member", OF_A_LAYER, ids=str)
def test_how_parameters_are_spread_over_groups_does_not_matter(member):
    finals = []
    for order in (list(ZOO), list(reversed(ZOO))):
        zoo = parameters()
        each = [{"params": [(name, zoo[name])], "rank": 2 if ZOO[name][1] else None} for name in order]
        drive(member.build(each), zoo, range(9))
        finals.append(values(zoo))
    check_equal(*finals)
    check_equal(finals[0], values(started(member, 9)[0]))


def two_of_one_shape(member, spread) -> list[torch.Tensor]:
    """Two parameters with the same values and gradients; whatever differs was drawn."""
    twins = [torch.nn.Parameter(torch.zeros(6, 10)) for _ in range(2)]
    optimizer = member.build([{"params": ps, "rank": 2} for ps in spread(twins)])
    for step in range(9):
        for p in twins:
            p.grad = gradient("blocks.0.wide", step)
        optimizer.step()
    return [p.detach() for p in twins]


@every_random_member
def test_without_names_it_is_the_place_among_all_parameters(member):
    """Not the place in the group: two groups would share their randomness."""
    one_group = two_of_one_shape(member, lambda twins: [twins])
    assert not torch.equal(*one_group)
    two_groups = two_of_one_shape(member, lambda twins: [[p] for p in twins])
    assert all(map(torch.equal, one_group, two_groups))


@every_random_member
def test_two_parameters_of_one_name_do_not_share_their_randomness(member):
    """A generator and a discriminator may both have a ``0.weight``."""
    for spread in (lambda twins: [[("0.weight", p)] for p in twins], lambda twins: [[("0.weight", p) for p in twins]]):
        assert not torch.equal(*two_of_one_shape(member, spread))


def test_a_basis_is_the_one_of_its_name_and_refresh():
    """By the literal draw: Q of the Gaussian matrix of (seed, name, refresh)."""
    zoo = parameters(names=("blocks.0.wide",))
    optimizer = optim.GrassJump(groups(zoo), update_interval=3, seed=5)
    for refresh in range(3):
        drive(optimizer, zoo, range(3))
        drawn = normal_draw(5, "blocks.0.wide", refresh)(6, 2)
        basis = optimizer.state[zoo["blocks.0.wide"]]["basis"]
        torch.testing.assert_close(basis @ basis.T, drawn @ torch.linalg.pinv(drawn), rtol=1e-4, atol=1e-5)


# --- states of releases that keyed by place --------------------------------------------------------------------------


@every_random_member
@pytest.mark.parametrize("seed", [0, 3])
def test_a_state_from_before_names_goes_on_drawing_by_place(member, seed):
    """Such a state says nothing of draws; its run had the trajectory of parameters without names."""
    unnamed = parameters()
    plain = [{"params": [p for _, p in group["params"]], "rank": group["rank"]} for group in groups(unnamed)]
    by_place = member.build(plain, seed=seed)
    drive(by_place, unnamed, range(4))
    old = by_place.state_dict()
    for group, named in zip(old["param_groups"], groups(parameters()), strict=True):
        del group["draws_by"]
        group["param_names"] = [name for name, _ in named["params"]]
    resumed = {name: torch.nn.Parameter(p.detach().clone()) for name, p in unnamed.items()}
    again = member.build(groups(resumed), seed=seed)
    again.load_state_dict(old)
    drive(again, resumed, range(4, 7))
    further = {name: torch.nn.Parameter(p.detach().clone()) for name, p in resumed.items()}
    once_more = member.build(groups(further), seed=seed)
    once_more.load_state_dict(again.state_dict())
    for optimizer, zoo, first in ((by_place, unnamed, 4), (once_more, further, 7)):
        drive(optimizer, zoo, range(first, 13))
    check_equal(values(further), values(unnamed))


# --- what is around --------------------------------------------------------------------------------------------------


@every_member
def test_torchs_default_dtype_does_not_matter(member):
    finals = []
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        zoo = parameters()
        optimizer = member.build(groups(zoo))
        torch.set_default_dtype(dtype)
        try:
            for step in range(9):
                for name, p in zoo.items():
                    p.grad = fixed_gradient(name, step)
                optimizer.step()
        finally:
            torch.set_default_dtype(torch.float32)
        assert all(p.dtype == torch.float32 for p in zoo.values())
        finals.append(values(zoo))
    check_equal(finals[1], finals[0])
    check_equal(finals[2], finals[0])


def fixed_gradient(name: str, step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1000 * step + list(ZOO).index(name))
    return torch.randn(ZOO[name][0], generator=generator, dtype=torch.float32)
