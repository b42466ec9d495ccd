"""What a study enumerates: a grid, and evaluation at the setting that tuning found."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import pytest

from subspace_lab.experiments.grid import Grid, Setting, Wanted, unique
from subspace_lab.experiments.phases import Evaluate
from subspace_lab.experiments.trial import Trial
from subspace_lab.training.tasks.base import Metric

LRS = (0.1, 0.2, 0.3)


def make(variant: str, setting: Setting, seed: int, phase: str) -> Trial:
    config = {"variant": variant, **setting, "seed": seed}
    return Trial({"method": variant, "phase": phase, **setting, "seed": seed}, "toy", config)


def grid_of(*variants: str, seeds: Sequence[int] = (0, 1)) -> Grid:
    return Grid(variants, [{"lr": lr} for lr in LRS], seeds, make, "tune")


class Results:
    """A result table: what is not in it has not been run."""

    def __init__(self, metric: str = "eval_loss") -> None:
        self.values: dict[str, tuple[str, float]] = {}
        self.metric = metric

    def add(self, trials: Sequence[Trial], *values: float, status: str = "complete") -> None:
        for trial, value in zip(trials, values, strict=True):
            self.values[trial.hash] = (status, value)

    def __call__(self, trials: Sequence[Trial]) -> list[dict[str, Any]]:
        return [
            {**trial.factors, "status": self.values[trial.hash][0], self.metric: self.values[trial.hash][1]}
            for trial in trials if trial.hash in self.values
        ]  # fmt: skip


def about(wanted: Sequence[Wanted]) -> list[tuple[object, ...]]:
    return [(*(one.trial.factors[name] for name in ("method", "lr", "seed")), one.is_known) for one in wanted]


def test_all_variants_come_early() -> None:
    trials = grid_of("a", "b").trials()
    assert [tuple(trial.factors[name] for name in ("seed", "lr", "method")) for trial in trials] == [
        (seed, lr, method) for seed in (0, 1) for lr in LRS for method in ("a", "b")
    ]
    assert {trial.factors["phase"] for trial in trials} == {"tune"}
    assert grid_of("a", "b").trials("b") == [trial for trial in trials if trial.factors["method"] == "b"]
    assert [one.trial for one in grid_of("a", "b").wanted(Results())] == trials
    assert all(one.is_known for one in grid_of("a", "b").wanted(Results()))


def test_until_a_variant_is_tuned_the_middle_setting_stands_in_for_its_best() -> None:
    grid, results = grid_of("a", "b"), Results()
    phase = Evaluate(grid, {"a": range(3), "b": range(2, 4)}, make)
    waiting = [("a", 0.2, 2, False), ("b", 0.2, 2, False), ("b", 0.2, 3, False)]  # seeds 0 and 1 tune
    assert about(phase.wanted(results)) == waiting
    results.add(grid.trials("a")[:5], 3, 2, 1, 3, 2)
    assert about(phase.wanted(results)) == waiting, "a trial of its tuning is missing"
    results.add(grid.trials("a")[5:], math.nan, status="killed")
    assert about(phase.wanted(results)) == waiting, "a trial of its tuning was killed, and goes on"
    results.add(grid.trials("a")[5:], 1)
    known = [("a", 0.3, seed, True) for seed in range(3)]
    assert about(phase.wanted(results)) == [*known, ("b", 0.2, 2, False), ("b", 0.2, 3, False)]
    assert grid.best("a", results) == {"lr": 0.3}
    assert grid.best("b", results) is None


def test_seeds_that_tuning_had_are_not_run_again() -> None:
    grid, results = grid_of("a"), Results()
    results.add(grid.trials(), 3, 1, 2, 3, 1, 2)
    evaluated = Evaluate(grid, {"a": range(3)}, make).wanted(results)
    tuned = {trial.hash for trial in grid.trials()}
    assert [one.trial.hash in tuned for one in evaluated] == [True, True, False]
    everything = unique(iter([*grid.wanted(results), *evaluated]))
    assert len(everything) == 7
    assert [one.trial.factors["phase"] for one in everything] == ["tune"] * 6 + ["evaluate"]


def test_those_that_wait_are_counted_once_and_beside_those_that_are_known() -> None:
    """A stand-in has the content of a trial of the grid, and is none of them."""
    grid = grid_of("a")
    wanted = [*grid.wanted(Results()), *Evaluate(grid, {"a": range(3)}, make).wanted(Results())]
    found = unique(iter([*wanted, *wanted]))
    assert [one.is_known for one in found] == [True] * 6 + [False]


def test_another_maker_runs_the_tuning_seeds_once_more() -> None:
    """What is evaluated is then another training, one that captures gradients for example."""
    grid = grid_of("a")

    def other(variant: str, setting: Setting, seed: int, phase: str) -> Trial:
        config = {"variant": variant, **setting, "seed": seed, "captures": True}
        return Trial({"method": variant, "phase": phase, **setting, "seed": seed}, "toy", config)

    assert about(Evaluate(grid, {"a": range(3)}, other).wanted(Results())) == [
        ("a", 0.2, seed, False) for seed in range(3)
    ]


@pytest.mark.parametrize(
    ("statuses", "losses", "best"),
    [
        (["diverged"] * 6, [math.nan] * 6, 0.1),
        (["complete", "complete", "diverged"] * 2, [5, 6, math.nan] * 2, 0.1),
        (["complete"] * 5 + ["diverged"], [5, 6, 0, 5, 6, math.nan], 0.1),
        (["diverged", "complete", "complete"] * 2, [math.nan, 7, 6.5] * 2, 0.3),
    ],
)
def test_the_best_setting_where_trials_diverged(statuses: list[str], losses: list[float], best: float) -> None:
    """They are an answer: one with which a seed diverged comes last, and where all did, the lowest is evaluated."""
    grid, results = grid_of("a"), Results()
    for trial, status, loss in zip(grid.trials(), statuses, losses, strict=True):
        results.add([trial], loss, status=status)
    assert grid.best("a", results) == {"lr": best}


def test_what_failed_has_no_answer() -> None:
    grid, results = grid_of("a"), Results()
    results.add(grid.trials(), 1, 2, 3, 1, 2, 3)
    results.add(grid.trials()[:1], math.nan, status="failed")
    assert grid.best("a", results) is None


def test_the_best_is_by_the_metric() -> None:
    grid, results = grid_of("a"), Results("accuracy")
    results.add(grid.trials(), 0.1, 0.9, 0.5, 0.2, 0.8, 0.5)
    grid = dataclasses.replace(grid, metric=Metric("accuracy", "higher"))
    assert grid.best("a", results) == {"lr": 0.2}
