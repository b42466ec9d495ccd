"""BAdam's blocks: their order, and gradients that are switched off for as long as the optimizer is there."""

from __future__ import annotations

import copy
import gc
import pickle
import warnings

import pytest
import torch
from torch import nn

from subspace_lab import optim
from tests.optim.members import drive, groups, parameters


def mlp(layers: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(8, 8) for _ in range(layers)))


def build(model: nn.Module, **settings) -> optim.BAdam:
    settings = {"lr": 1e-2, "update_interval": 2, "freeze_inactive": True, **settings}
    return optim.BAdam(optim.param_groups(model, rank=2), **settings)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(3, 8, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def on(model: nn.Module) -> set[str]:
    """Blocks with gradients."""
    return {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}


def check_same(model: nn.Module, other: nn.Module) -> None:
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q), name


# --- order -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interval", [1, 3])
def test_every_cycle_has_all_blocks_in_an_order_of_its_own(interval):
    zoo = parameters()
    optimizer = optim.BAdam([{"params": [pair]} for pair in zoo.items()], update_interval=interval)
    names = list(optimizer.blocks())
    assert len(names) == 3
    orders = []
    for _ in range(24):
        turns = []
        for _ in names:
            block = optimizer.active_block()
            for _ in range(interval):
                assert optimizer.active_block() == block
                drive(optimizer, zoo, range(1))
            turns.append(block)
        assert sorted(turns) == sorted(names)
        orders.append(tuple(turns))
    assert len(set(orders)) == 6, "of three blocks there are six orders, all of them in 24 cycles but once in ten"
    first = optim.BAdam(groups(parameters()), seed=0)
    assert len({optim.BAdam(groups(parameters()), seed=seed).active_block() for seed in range(20)}) > 1
    assert first.active_block() == optim.BAdam(groups(parameters()), seed=0).active_block()


# --- gradients that are switched off ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [0, 1, 2, 5, 6])
@pytest.mark.parametrize("way", ["load", "deepcopy", "pickle"])
def test_a_resumed_run_has_gradients_of_its_active_block(stop, way):
    model = mlp()
    optimizer = build(model)
    train(model, optimizer, range(stop))
    if way == "load":
        again = mlp()
        again.load_state_dict(model.state_dict())
        fresh = build(again)
        fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    elif way == "deepcopy":
        again, fresh = copy.deepcopy((model, optimizer))
    else:
        again, fresh = pickle.loads(pickle.dumps((model, optimizer)))
    assert on(again) == {fresh.active_block()} == {optimizer.active_block()}
    train(model, optimizer, range(stop, 11))
    train(again, fresh, range(stop, 11))
    check_same(again, model)
    fresh.close()
    assert on(again) == {"0", "1", "2", "3"}
    assert on(model) == {optimizer.active_block()}, "the other one has its own"


def test_freezing_changes_no_step():
    """Against the same optimizer that leaves all gradients on."""
    one, other = mlp(), mlp()
    train(one, build(one), range(13))
    train(other, build(other, freeze_inactive=False), range(13))
    check_same(one, other)


def test_close_switches_everything_on_and_training_may_go_on():
    model, other = mlp(), mlp()
    optimizer, twin = build(model), build(other)
    train(model, optimizer, range(3))
    train(other, twin, range(3))
    optimizer.close()
    optimizer.close()
    assert on(model) == {"0", "1", "2", "3"}
    train(model, optimizer, range(3, 9))
    train(other, twin, range(3, 9))
    check_same(model, other)
    assert on(model) == {"0", "1", "2", "3"}


@pytest.mark.parametrize("with_schedule", [False, True])
def test_a_collected_optimizer_leaves_no_gradient_off(with_schedule):
    model = mlp()
    optimizer = build(model)
    if with_schedule:
        torch.optim.lr_scheduler.StepLR(optimizer, 1)
    train(model, optimizer, range(3))
    assert len(on(model)) == 1
    del optimizer
    gc.collect()
    assert on(model) == {"0", "1", "2", "3"}


def test_a_cell_that_is_run_again_while_the_old_optimizer_lives():
    """In a notebook the name is bound to the old optimizer until the new one is there."""
    model, cell = mlp(), "optimizer = build(model); train(model, optimizer, range(8)); found = set(optimizer.blocks())"
    space = {"build": build, "train": train, "model": model}
    exec(cell, space)
    old = space["optimizer"]
    with pytest.warns(UserWarning, match="a BAdam that froze parameters of this BAdam is closed"):
        exec(cell, space)
    assert space["found"] == {"0", "1", "2", "3"}
    assert on(model) == {space["optimizer"].active_block()}
    train(model, old, range(2))
    assert on(model) == {space["optimizer"].active_block()}, "the old one switches nothing any more"
    start = copy.deepcopy(model)
    train(model, space["optimizer"], range(8))
    moved = [not torch.equal(p, q) for p, q in zip(model.parameters(), start.parameters(), strict=True)]
    assert all(moved)


@pytest.mark.parametrize("name", ["GrassWalk", "LDAdam", "APOLLO"])
def test_another_method_over_a_model_that_is_frozen_trains_all_of_it(name):
    model = mlp()
    first = build(model)
    train(model, first, range(3))
    with pytest.warns(UserWarning, match=f"parameters of this {name} is closed"):
        second = getattr(optim, name)(optim.param_groups(model, rank=2), lr=0.01)
    assert on(model) == {"0", "1", "2", "3"}
    start = copy.deepcopy(model)
    train(model, second, range(2))
    assert not any(torch.equal(p, q) for p, q in zip(model.parameters(), start.parameters(), strict=True))


def test_two_models_do_not_disturb_each_other():
    one, other = mlp(), mlp()
    with warnings.catch_warnings(action="error"):
        first, second = build(one), build(other, seed=1)
        train(one, first, range(5))
        train(other, second, range(3))
        second.close()
    assert on(one) == {first.active_block()}
    assert on(other) == {"0", "1", "2", "3"}


def test_what_the_user_froze_stays_frozen():
    model = mlp()
    model[0].requires_grad_(False)
    optimizer = build(model)
    assert "0" not in optimizer.blocks()
    train(model, optimizer, range(7))
    optimizer.close()
    assert on(model) == {"1", "2", "3"}
    group = {"params": list(model.named_parameters()), "rank": 2, "freeze_inactive": True}
    with pytest.raises(ValueError, match=r"0\.weight requires no gradient"):
        optim.BAdam([group])


def test_freezing_that_is_switched_off_by_an_edit_or_a_state():
    model = mlp()
    optimizer = build(model)
    train(model, optimizer, range(3))
    for group in optimizer.param_groups:
        group["freeze_inactive"] = False
    train(model, optimizer, range(3, 4))
    assert on(model) == {"0", "1", "2", "3"}
    other = mlp()
    loaded = build(other)
    loaded.load_state_dict(optimizer.state_dict())
    assert on(other) == {"0", "1", "2", "3"}
