"""Phases that wait for results: evaluation at the best setting that tuning found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from subspace_lab.experiments.grid import Grid, Lookup, Make, Wanted
from subspace_lab.experiments.search import Search


@dataclass(frozen=True)
class Evaluate:
    """Some variants at the best setting of each, once it is known.

    A trial of the tuning with the best setting and a seed of the evaluation is the same trial, and is not run again.

    Attributes:
        tuning: Chooses the settings, on its own seeds.
        seeds: Evaluation seeds by variant.
        make: Makes a trial.
    """

    tuning: Grid | Search
    seeds: Mapping[str, Sequence[int]]
    make: Make

    def wanted(self, rows_of: Lookup) -> list[Wanted]:
        """See `Phase.wanted`; until a variant is tuned, another setting stands in for its best."""
        best = {variant: self.tuning.best(variant, rows_of) for variant in self.seeds}
        listed = [(seed, variant) for variant, seeds in self.seeds.items() for seed in seeds]
        found = []
        for seed, variant in sorted(listed, key=lambda pair: pair[0]):
            setting = best[variant]
            if setting is not None:
                found.append(Wanted(self.make(variant, setting, seed, "evaluate")))
            elif self.make is not self.tuning.make or seed not in self.tuning.seeds:
                # otherwise one of the tuning's own trials will be it
                stand_in = self.tuning.stand_in(variant)
                found.append(Wanted(self.make(variant, stand_in, seed, "evaluate"), is_known=False))
        return found
