"""Phases that wait for results: evaluation at the best setting that tuning found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from subspace_lab.experiments.grid import Grid, Lookup, Make, Setting, Wanted
from subspace_lab.experiments.outcome import ENDED
from subspace_lab.experiments.statistics import best_setting
from subspace_lab.training.tasks.base import LOSS, Metric


@dataclass(frozen=True)
class Evaluate:
    """Some variants of a grid at the best setting of each, once the grid is complete for it.

    A trial of the grid that has the best setting and a seed of the evaluation is the same trial, and is not run again.

    Attributes:
        grid: Compares the settings, on its own seeds.
        seeds: Evaluation seeds by variant.
        make: Makes a trial.
        metric: What the settings are compared by.
    """

    grid: Grid
    seeds: Mapping[str, Sequence[int]]
    make: Make
    metric: Metric = field(default=LOSS)

    def wanted(self, rows_of: Lookup) -> list[Wanted]:
        """See `Phase.wanted`; until a variant is tuned, the middle setting of the grid stands in for its best."""
        best = {variant: self.best(variant, rows_of) for variant in self.seeds}
        middle = self.grid.settings[len(self.grid.settings) // 2]
        listed = [(seed, variant) for variant, seeds in self.seeds.items() for seed in seeds]
        return [
            Wanted(self.make(variant, best[variant] or middle, seed, "evaluate"), best[variant] is not None)
            for seed, variant in sorted(listed, key=lambda pair: pair[0])
            if best[variant] is not None or not self._is_tuned_with(seed)
        ]

    def _is_tuned_with(self, seed: int) -> bool:
        """Whether a trial of the grid will be the evaluation with this seed, whatever the best setting."""
        return self.make is self.grid.make and seed in self.grid.seeds

    def best(self, variant: str, rows_of: Lookup) -> Setting | None:
        """The best setting of a variant; None while a trial of its tuning has not ended."""
        rows = rows_of(self.grid.trials(variant))
        if len(rows) < len(self.grid.settings) * len(self.grid.seeds) or not rows["status"].isin(ENDED).all():
            return None
        chosen = best_setting(rows, self.metric, tuple(self.grid.settings[0]))
        return next(one for one in self.grid.settings if all(one[name] == chosen[name] for name in one))
