"""What every optimizer keeps, saves and resumes bit for bit; randomness by the seed alone."""

from __future__ import annotations

import copy
import io
import pickle
import random

import numpy as np
import torch
from torch.optim.optimizer import Optimizer

from tests.optim.members import (
    ZOO,
    check_equal,
    drive,
    every_dtype,
    every_member,
    groups,
    parameters,
    started,
    values,
)

INDICES = {"FRUGAL": torch.int64, "FastGrassWalk": torch.int32, "DCTAdamW": torch.int32}

# --- state -----------------------------------------------------------------------------------------------------------


@every_member
@every_dtype
def test_state_is_what_the_contract_says(member, dtype):
    zoo, optimizer = started(member, 5, dtype)
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    found = 0
    for name, p in zoo.items():
        state = optimizer.state.get(p, {})
        if not state or (member.has_subspaces and not ZOO[name][1]):
            continue
        found += 1
        assert set(state) == member.keys, name
        if not member.has_subspaces:
            continue
        m, n = {"blocks.0.wide": (6, 10), "blocks.0.tall": (5, 12), "blocks.1.conv": (4, 12)}[name]
        shapes = {
            "basis": (m, 2), "exp_avg": (2, n), "exp_avg_sq": (2, n), "recovery_norm": (), "error": (m, n),
            "indices": (2,), "coordinates": (2, n), "basis_exp_avg": (m, 2), "basis_exp_avg_sq": (m, 2),
        }  # fmt: skip
        assert (state["step"], state["refreshes"]) == (5, 1)
        assert type(state["step"]) is type(state["refreshes"]) is int
        for key in member.keys - {"step", "refreshes"}:
            assert tuple(state[key].shape) == shapes[key], (name, key)
            assert state[key].dtype == (INDICES[member.name] if key == "indices" else exact), (name, key)
    assert found


@every_member
def test_groups_hold_plain_values(member):
    _, optimizer = started(member, 2)
    for group in optimizer.state_dict()["param_groups"]:
        for key, value in group.items():
            parts = value if isinstance(value, list | tuple) else [value]
            assert all(part is None or type(part) in {int, float, str, bool} for part in parts), key


def saved_and_loaded(optimizer: Optimizer) -> dict:
    """The state, through a file that may execute nothing."""
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@every_member
@every_dtype
def test_state_dict_round_trip_is_exact(member, dtype):
    zoo, optimizer = started(member, 5, dtype)
    twin = parameters(dtype)
    loaded = member.build(groups(twin), lr=0.5)
    loaded.load_state_dict(saved_and_loaded(optimizer))
    assert loaded.param_groups[0]["lr"] == 0.01
    for name, p in zoo.items():
        state, again = optimizer.state.get(p, {}), loaded.state.get(twin[name], {})
        assert state.keys() == again.keys()
        for key, value in state.items():
            if isinstance(value, torch.Tensor):
                assert again[key].dtype == value.dtype, (name, key)
                assert torch.equal(again[key], value), (name, key)
                assert again[key] is not value
            else:
                assert type(again[key]) is type(value)
                assert again[key] == value


@every_member
@every_dtype
def test_a_resumed_run_equals_the_uninterrupted_one(member, dtype):
    """Saved before, at and after refreshes, at the very start, and between two blocks of BAdam."""
    whole, _ = started(member, 11, dtype, stochastic_rounding=dtype == torch.bfloat16)
    for stop in (0, 1, 2, 3, 4, 6, 7, 10):
        zoo, optimizer = started(member, stop, dtype, stochastic_rounding=dtype == torch.bfloat16)
        resumed = {name: torch.nn.Parameter(p.detach().clone()) for name, p in zoo.items()}
        again = member.build(groups(resumed), stochastic_rounding=dtype == torch.bfloat16)
        again.load_state_dict(saved_and_loaded(optimizer))
        drive(again, resumed, range(stop, 11))
        check_equal(values(resumed), values(whole))


@every_member
def test_a_loaded_state_is_the_optimizers_own(member):
    """What is loaded into two optimizers is shared by neither."""
    zoo, optimizer = started(member, 4)
    state = optimizer.state_dict()
    twins = []
    for _ in range(2):
        twin = {name: torch.nn.Parameter(p.detach().clone()) for name, p in zoo.items()}
        loaded = member.build(groups(twin))
        loaded.load_state_dict(state)
        drive(loaded, twin, range(4, 9))
        twins.append(values(twin))
    check_equal(*twins)


@every_member
def test_deepcopy_and_pickle_go_on_as_the_original(member):
    zoo, optimizer = started(member, 4)
    copied = copy.deepcopy((zoo, optimizer))
    pickled = pickle.loads(pickle.dumps((zoo, optimizer)))
    drive(optimizer, zoo, range(4, 9))
    for twin, its_own in (copied, pickled):
        drive(its_own, twin, range(4, 9))
        check_equal(values(twin), values(zoo))


# --- randomness ------------------------------------------------------------------------------------------------------


@every_member
@every_dtype
def test_same_seed_same_trajectory_whatever_the_global_one(member, dtype):
    finals = []
    for global_seed in (0, 1):
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)
        random.seed(global_seed)
        before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
        zoo, _ = started(member, 12, dtype, stochastic_rounding=dtype == torch.bfloat16)
        after = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
        assert torch.equal(before[0], after[0])
        assert np.array_equal(before[1], after[1])
        assert before[2] == after[2]
        finals.append(values(zoo))
    check_equal(*finals)


@every_member
def test_another_seed_another_trajectory_of_the_random_ones(member):
    finals = [values(started(member, 30, seed=seed)[0]) for seed in range(4)]
    moved = {name for name in ZOO if any(not torch.equal(final[name], finals[0][name]) for final in finals)}
    drawn_for = {name for name, (_, low) in ZOO.items() if low or not member.has_subspaces}
    assert moved == (drawn_for if member.is_random else set())
