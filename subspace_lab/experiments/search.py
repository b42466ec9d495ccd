"""Tuning by coordinate search: one setting after the other is moved to better values, on tuning seeds alone."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from subspace_lab.experiments.grid import Lookup, Make, Wanted
from subspace_lab.experiments.outcome import ENDED
from subspace_lab.experiments.trial import Trial
from subspace_lab.training.tasks.base import LOSS, Metric

Point = dict[str, float]
Costs = dict[tuple[float, ...], float]


@dataclass(frozen=True)
class Axis:
    """The values that one setting may have.

    Attributes:
        name: Name of the setting.
        values: At least two, ascending.
        grows: Whether the search goes on beyond the ends, by the ratio of the two values there: the best value is then
            inside of what was tried, unless the budget was spent.
    """

    name: str
    values: tuple[float, ...]
    grows: bool = False

    def neighbours(self, value: float) -> list[float]:
        """The next lower and the next higher value, as far as there are any."""
        lower = [one for one in self.values if one < value]
        upper = [one for one in self.values if one > value]
        below = lower[-1:] or ([_short(value * self.values[0] / self.values[1])] if self.grows else [])
        above = upper[:1] or ([_short(value * self.values[-1] / self.values[-2])] if self.grows else [])
        return [*below, *above]


@dataclass(frozen=True)
class Stage:
    """Settings that are searched together, from where the stage before ended.

    Attributes:
        axes: Searched one after the other, repeatedly, until none of them improves the point.
        budget: Largest number of points that are tried, not counting the first one.
    """

    axes: tuple[Axis, ...]
    budget: int


@dataclass(frozen=True)
class Searched:
    """The state of a search.

    Attributes:
        best: The best point so far.
        tried: All points with a cost.
        wanted: Points to try next, none when the search is complete.
        left: Points that may still be tried after these, at most.
        at_edge: Settings whose best value is the lowest or the highest that was tried, with another one beyond it.
    """

    best: Point
    tried: tuple[Point, ...]
    wanted: tuple[Point, ...]
    left: int
    at_edge: tuple[str, ...] = ()


def search(start: Point, stages: Sequence[Stage], costs: Costs) -> Searched:
    """The next step of a coordinate search; it depends on the known costs only.

    Along an axis both neighbours of the best point are tried, and the search moves while one of them is better; then
    comes the next axis. It assumes that the loss has one valley along each axis, as learning rates mostly have.

    Args:
        start: The first point, with a value for every axis.
        stages: Searched one after the other.
        costs: Cost of each point tried, by its values in the order of `start`; infinite where a trial diverged.

    Returns:
        The state of the search.
    """

    def cost(point: Point) -> float:
        return costs[tuple(point.values())]

    def is_known(point: Point) -> bool:
        return tuple(point.values()) in costs

    total = sum(stage.budget for stage in stages)
    if not is_known(start):
        return Searched(start, (), (start,), total)
    best, tried = start, [start]
    for place, stage in enumerate(stages):
        later = sum(one.budget for one in stages[place + 1 :])
        room, unmoved = stage.budget, 0
        seen = {tuple(best.values())}
        for axis in itertools.cycle(stage.axes):
            if unmoved == len(stage.axes):
                break
            moved = False
            while True:
                near = [{**best, axis.name: value} for value in axis.neighbours(best[axis.name])]
                new = [point for point in near if tuple(point.values()) not in seen][:room]
                room -= len(new)
                seen |= {tuple(point.values()) for point in new}
                if unknown := tuple(point for point in new if not is_known(point)):
                    return Searched(best, tuple(tried), unknown, room + later)
                tried += new
                better = min((best, *(point for point in near if tuple(point.values()) in seen)), key=cost)
                if cost(better) >= cost(best):
                    break
                best, moved = better, True
            unmoved = 0 if moved else unmoved + 1
    axes = {axis.name: axis for stage in stages for axis in stage.axes}
    at_edge = tuple(name for name, axis in axes.items() if _is_at_edge(axis, best[name], [one[name] for one in tried]))
    return Searched(best, tuple(tried), (), 0, at_edge)


def _short(value: float) -> float:
    """Three digits, so that it is the same whichever way it was reached."""
    return float(f"{value:.3g}")


def _is_at_edge(axis: Axis, value: float, tried: Sequence[float]) -> bool:
    """Whether a value is the lowest or the highest that was tried although there is one beyond it."""
    beyond = axis.neighbours(value)
    return (min(tried) == value and min(beyond) < value) or (max(tried) == value and max(beyond) > value)


@dataclass(frozen=True)
class Search:
    """A phase that tunes each variant by coordinate search on the tuning seeds.

    Attributes:
        starts: The first point of each variant.
        stages: The stages of each variant.
        seeds: Tuning seeds, which no evaluation uses; the cost of a point is the mean over them.
        make: Makes a trial.
        metric: What the points are compared by.
        donors: Another search and a variant of it for those that start at the best point of that one, and wait for it.
    """

    starts: Mapping[str, Point]
    stages: Mapping[str, Sequence[Stage]]
    seeds: Sequence[int]
    make: Make
    metric: Metric = LOSS
    donors: Mapping[str, tuple[Search, str]] = field(default_factory=dict)

    def wanted(self, rows_of: Lookup) -> list[Wanted]:
        """See `Phase.wanted`; points that are not known yet are counted as many as the budget allows."""
        found: list[Wanted] = []
        for variant in self.starts:
            state, trials = self._state(variant, rows_of)
            found += [Wanted(trial) for trial in trials]
            like = self._trials(variant, state.best)[0]
            later = [
                dataclasses.replace(like, label=f"{like.label} search {place}")
                for place in range(state.left * len(self.seeds))
            ]
            found += [Wanted(trial, is_known=False) for trial in later]
        return found

    def best(self, variant: str, rows_of: Lookup) -> Point | None:
        """The best point of a variant, None while the search goes on."""
        state, _ = self._state(variant, rows_of)
        return None if state.wanted or state.left else state.best

    def stand_in(self, variant: str) -> Point:
        """A point of the same cost as the best one, before that is known."""
        return self.starts[variant]

    def _state(self, variant: str, rows_of: Lookup) -> tuple[Searched, list[Trial]]:
        """The state of the search of a variant, and all trials that it has asked for."""
        start, costs, asked = self.starts[variant], Costs(), list[Trial]()
        if variant in self.donors:
            search_before, donor = self.donors[variant]
            best = search_before.best(donor, rows_of)
            if best is None:
                return Searched(start, (), (), 1 + sum(stage.budget for stage in self.stages[variant])), asked
            start = {name: best[name] for name in start}
        while True:
            state = search(start, self.stages[variant], costs)
            if not state.wanted:
                return state, asked
            for point in state.wanted:
                trials = self._trials(variant, point)
                asked += trials
                rows = rows_of(trials)
                if len(rows) == len(trials) and all(row["status"] in ENDED for row in rows):
                    costs[tuple(point.values())] = sum(map(self._cost, rows)) / len(rows)
            if not all(tuple(point.values()) in costs for point in state.wanted):
                return state, asked

    def _cost(self, row: Mapping[str, Any]) -> float:
        value = self.metric.sign * row[self.metric.name] if row["status"] == "complete" else math.inf
        return value if math.isfinite(value) else math.inf

    def _trials(self, variant: str, point: Point) -> list[Trial]:
        return [self.make(variant, point, seed, "tune") for seed in self.seeds]
