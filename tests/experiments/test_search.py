"""Coordinate search: what it tries, against functions whose best point is known; and as a phase of a study."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings, strategies as st

from subspace_lab.experiments.grid import Make, unique
from subspace_lab.experiments.protocol import BETA2, RATES, TUNING_SEEDS, tuned_phases
from subspace_lab.experiments.search import Axis, Costs, Point, Search, Searched, Stage, search
from subspace_lab.experiments.variants import Trainings, common_config, parse_methods
from subspace_lab.training import TrainConfig
from subspace_lab.training.tasks.base import Metric
from tests.experiments.test_grid import Results, make

LADDER = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
BOTH = (Axis("lr_rest", LADDER, grows=True), Axis("lr", LADDER, grows=True))
START: Point = {"lr": 3e-3, "lr_rest": 1e-2}


def run(cost: Callable[[Point], float], stages: list[Stage], start: Point = START) -> tuple[Searched, list[Point]]:
    """The search with all points answered, and the points in the order in which they were asked for."""
    costs, asked = Costs(), list[Point]()
    while (state := search(start, stages, costs)).wanted:
        assert not [point for point in state.wanted if point in asked], "a point is asked for once"
        assert len(asked) + len(state.wanted) + state.left <= 1 + sum(stage.budget for stage in stages)
        for point in state.wanted:
            asked.append(point)
            costs[tuple(point.values())] = cost(point)
    return state, asked


def bowl(lr: float, rest: float) -> Callable[[Point], float]:
    return lambda p: math.log(p["lr"] / lr) ** 2 + 2 * math.log(p["lr_rest"] / rest) ** 2


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(LADDER), st.sampled_from(LADDER), st.sampled_from(LADDER), st.sampled_from(LADDER))
def test_the_best_point_of_a_bowl_is_found_from_everywhere(lr: float, rest: float, one: float, other: float) -> None:
    state, asked = run(bowl(lr, rest), [Stage(BOTH, 40)], {"lr": one, "lr_rest": other})
    assert state.best == {"lr": lr, "lr_rest": rest}
    assert state.at_edge == ()
    assert len(asked) < len(LADDER) ** 2
    best = min(itertools.product(LADDER, LADDER), key=lambda p: bowl(lr, rest)({"lr": p[0], "lr_rest": p[1]}))
    assert best == (lr, rest)


def test_it_goes_beyond_the_ends_of_the_ladder_until_the_best_is_inside() -> None:
    state, asked = run(bowl(1e-3, 0.27), [Stage(BOTH, 12)])
    assert state.best == {"lr": 1e-3, "lr_rest": 0.27}
    assert state.at_edge == ()
    assert max(point["lr_rest"] for point in asked) == 0.81
    fixed = (Axis("lr_rest", LADDER), Axis("lr", LADDER))
    state, asked = run(bowl(1e-3, 0.27), [Stage(fixed, 12)])
    assert state.best == {"lr": 1e-3, "lr_rest": 3e-2}
    assert state.at_edge == ()  # there is nothing beyond


def test_a_budget_that_is_spent_is_said_with_the_settings_at_their_edge() -> None:
    state, asked = run(bowl(1e-3, 0.81), [Stage(BOTH, 4)])
    assert len(asked) == 5
    assert state.best["lr_rest"] == 0.27
    assert state.at_edge == ("lr", "lr_rest") or state.at_edge == ("lr_rest", "lr")


def test_a_stage_begins_where_the_one_before_ended_and_has_a_budget_of_its_own() -> None:
    def cost(p: Point) -> float:
        return bowl(1e-2, 1e-2)(p) + abs(p["beta2"] - 0.95)

    stages = [Stage(BOTH, 6), Stage((Axis("beta2", (0.95, 0.99, 0.999)),), 3)]
    state, asked = run(cost, stages, {**START, "beta2": 0.999})
    assert state.best == {"lr": 1e-2, "lr_rest": 1e-2, "beta2": 0.95}
    assert [p["beta2"] for p in asked if p["beta2"] != 0.999] == [0.99, 0.95]
    assert all(p["lr"] == p["lr_rest"] == 1e-2 for p in asked if p["beta2"] != 0.999)


def test_settings_that_diverge_are_never_the_best() -> None:
    def cost(p: Point) -> float:
        return math.inf if p["lr"] > 1e-3 else bowl(1e-2, 1e-2)(p)

    assert run(cost, [Stage(BOTH, 12)])[0].best == {"lr": 1e-3, "lr_rest": 1e-2}
    assert run(lambda _: math.inf, [Stage(BOTH, 12)])[0].best == START


def test_as_a_phase_it_asks_for_both_neighbours_at_once_and_counts_what_may_come() -> None:
    stage = Stage((Axis("lr", (0.1, 0.2, 0.3)),), 2)
    phase, results = Search({"a": {"lr": 0.2}}, {"a": [stage]}, (7, 8), make), Results()
    first = phase.wanted(results)
    assert [(one.trial.factors["lr"], one.trial.factors["seed"], one.is_known) for one in first[:2]] == [
        (0.2, 7, True), (0.2, 8, True),
    ]  # fmt: skip
    assert [one.is_known for one in first[2:]] == [False] * 4
    assert {one.trial.factors["phase"] for one in first} == {"tune"}
    assert phase.best("a", results) is None
    results.add([one.trial for one in first[:2]], 2, 2)
    second = phase.wanted(results)[2:]
    assert [(one.trial.factors["lr"], one.is_known) for one in second] == [(lr, True) for lr in (0.1, 0.1, 0.3, 0.3)]
    results.add([one.trial for one in second[:2]], 1, 2.5)
    assert phase.best("a", results) is None
    results.add([one.trial for one in second[2:]], 3, math.nan, status="diverged")
    assert phase.best("a", results) == {"lr": 0.1}
    assert all(one.is_known for one in phase.wanted(results))


def test_two_searches_of_the_same_variant_are_counted_apart() -> None:
    """Such as on two tasks, whose trials have other labels; of one and the same search they are counted once."""

    def labelled(task: str) -> Make:
        return lambda variant, setting, seed, phase: dataclasses.replace(
            make(variant, setting, seed, phase), label=f"{task} {variant}", config={"task": task, **setting}
        )

    stages = {"a": [Stage((Axis("lr", (0.1, 0.2, 0.3)),), 2)]}
    one, other = (Search({"a": {"lr": 0.2}}, stages, (7,), labelled(task)) for task in ("one", "other"))
    for phases, number in (((one, other), 6), ((one, one), 3)):
        wanted = unique(each for phase in phases for each in phase.wanted(Results()))
        assert len(wanted) == number


def test_where_higher_is_better_the_highest_is_the_best() -> None:
    stage = Stage((Axis("lr", (0.1, 0.2, 0.3)),), 2)
    phase = Search({"a": {"lr": 0.2}}, {"a": [stage]}, (7,), make, Metric("accuracy", "higher"))
    results = Results("accuracy")
    for values in ((0.5,), (0.25, 0.75)):
        asked = [one.trial for one in phase.wanted(results) if one.is_known][-len(values) :]
        results.add(asked, *values)
    assert phase.best("a", results) == {"lr": 0.3}


def test_the_protocol_tunes_each_method_on_a_seed_that_is_not_evaluated() -> None:
    methods = parse_methods(["adamw", "ldadam", "grasswalk:lr-rest=0.02", "galore:warmup=7"])
    base = common_config(TrainConfig(preset="llama-2m", steps=100))
    make = Trainings(base, methods, "")
    tuning, evaluation = tuned_phases(methods, make)
    assert tuning.seeds == TUNING_SEEDS
    assert {seed for seeds in evaluation.seeds.values() for seed in seeds} == set(range(5))
    assert not set(range(5)) & set(TUNING_SEEDS)
    assert tuning.starts["adamw"] == {"lr": 3e-3, "lr_rest": 1e-2, "beta2": 0.999, "warmup": 10}
    assert tuning.starts["ldadam"]["beta2"] == 0.99
    assert set(tuning.starts["grasswalk:lr_rest=0.02"]) == {"lr", "beta2", "warmup"}
    assert set(tuning.starts["galore:warmup=7"]) == {"lr", "lr_rest", "beta2"}
    for name in methods:
        assert 1 + sum(stage.budget for stage in tuning.stages[name]) == 10
    rates, fine = tuning.stages["adamw"]
    assert [(axis.name, axis.values, axis.grows) for axis in rates.axes] == [
        ("lr_rest", RATES, True), ("lr", RATES, True),
    ]  # fmt: skip
    assert [(axis.name, axis.values, axis.grows) for axis in fine.axes] == [
        ("beta2", BETA2, False), ("warmup", (5, 10, 20), False),
    ]  # fmt: skip
    trial = tuning.make("adamw", {**tuning.starts["adamw"], "beta2": 0.95, "warmup": 5}, 1000, "tune")
    assert trial.config["betas"] == [0.9, 0.95] or tuple(trial.config["betas"]) == (0.9, 0.95)
    assert (trial.config["warmup"], trial.config["lr_rest"], trial.factors["beta2"]) == (5, 1e-2, 0.95)


def test_what_a_method_says_itself_is_not_counted() -> None:
    """Six rates after the first training, and three of beta2 and the warm-up where one of these is open."""
    methods = parse_methods(["galore:beta2=0.99:warmup=7", "galore:lr-rest=0.02:warmup=7"])
    make = Trainings(common_config(TrainConfig(preset="llama-2m", steps=100)), methods, "")
    tuning, _ = tuned_phases(methods, make)
    assert [len(stages) for stages in tuning.stages.values()] == [1, 2]
    assert len(tuning.wanted(lambda _: [])) == (1 + 6) + (1 + 6 + 3)


@pytest.mark.parametrize(("value", "near"), [(1e-4, [3.33e-5, 3e-4]), (3e-2, [1e-2, 0.09]), (0.09, [3e-2, 0.27])])
def test_neighbours_on_a_ladder(value: float, near: list[float]) -> None:
    assert Axis("lr", LADDER, grows=True).neighbours(value) == pytest.approx(near)
