"""The grid of a study: variants x settings x seeds, enumerated here and nowhere else."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd

from subspace_lab.experiments.outcome import ENDED
from subspace_lab.experiments.statistics import best_setting
from subspace_lab.experiments.trial import Plain, Trial
from subspace_lab.training.tasks.base import LOSS, Metric

Setting = Mapping[str, Plain]
Make = Callable[[str, Setting, int, str], Trial]  # the trial of a variant with a setting and a seed, in a phase
Lookup = Callable[[Sequence[Trial]], list[dict[str, Any]]]  # the rows of trials in the result table


@dataclass(frozen=True)
class Wanted:
    """One trial of an enumeration.

    Attributes:
        trial: The trial.
        is_known: Whether its setting is chosen; if not, `trial` has another setting of the same cost.
    """

    trial: Trial
    is_known: bool = True


class Phase(Protocol):
    """Part of a study whose trials depend only on the results of earlier parts."""

    def wanted(self, rows_of: Lookup) -> list[Wanted]:
        """All of its trials, each once, including those that wait for results; `rows_of` reads the result table."""


@dataclass(frozen=True)
class Grid:
    """Every variant with every setting and every seed.

    Attributes:
        variants: Names that `make` knows.
        settings: Varied for each of them: ``[{"lr": 1e-3}, {"lr": 3e-3}]``.
        seeds: From 0 on.
        make: Makes a trial.
        phase: ``tune`` where the settings are compared to choose one, ``evaluate`` where the result counts.
        metric: What the settings are compared by.
    """

    variants: Sequence[str]
    settings: Sequence[Setting]
    seeds: Sequence[int]
    make: Make
    phase: str = "evaluate"
    metric: Metric = LOSS

    def trials(self, *variants: str) -> list[Trial]:
        """The trials of some variants (all by default), by seed, setting and variant: each variant comes early."""
        chosen = variants or self.variants
        product = itertools.product(self.seeds, self.settings, chosen)
        return [self.make(variant, setting, seed, self.phase) for seed, setting, variant in product]

    def wanted(self, rows_of: Lookup) -> list[Wanted]:  # noqa: ARG002
        """See `Phase.wanted`: nothing waits."""
        return [Wanted(trial) for trial in self.trials()]

    def best(self, variant: str, rows_of: Lookup) -> Setting | None:
        """The best setting of a variant, None while one of its trials has not ended."""
        rows = rows_of(self.trials(variant))
        if len(rows) < len(self.settings) * len(self.seeds) or any(row["status"] not in ENDED for row in rows):
            return None
        chosen = best_setting(pd.DataFrame(rows), self.metric, tuple(self.settings[0]))
        return next(one for one in self.settings if all(one[name] == chosen[name] for name in one))

    def stand_in(self, variant: str) -> Setting:  # noqa: ARG002
        """The middle setting, of the same cost as the best one, before that is known."""
        return self.settings[len(self.settings) // 2]


def unique(wanted: Iterator[Wanted]) -> list[Wanted]:
    """Each trial once: by its content and label, those that wait by their label."""
    found: dict[tuple[str, str], Wanted] = {}
    for one in wanted:
        found.setdefault((one.trial.hash if one.is_known else "", one.trial.label), one)
    return [*found.values()]
