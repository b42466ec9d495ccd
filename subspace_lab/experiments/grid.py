"""The grid of a study: variants x settings x seeds, enumerated here and nowhere else."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import pandas as pd

from subspace_lab.experiments.trial import Plain, Trial

Setting = Mapping[str, Plain]
Lookup = Callable[[Sequence[Trial]], pd.DataFrame]  # the rows of trials in the result table


class Make(Protocol):
    """Makes the trial of a variant with a setting and a seed."""

    def __call__(self, variant: str, setting: Setting, seed: int, phase: str) -> Trial:
        """Make it."""


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
    """

    variants: Sequence[str]
    settings: Sequence[Setting]
    seeds: Sequence[int]
    make: Make
    phase: str = "evaluate"

    def trials(self, *variants: str) -> list[Trial]:
        """The trials of some variants (all by default), by seed, setting and variant: each variant comes early."""
        chosen = variants or self.variants
        product = itertools.product(self.seeds, self.settings, chosen)
        return [self.make(variant, setting, seed, self.phase) for seed, setting, variant in product]

    def wanted(self, rows_of: Lookup) -> list[Wanted]:  # noqa: ARG002
        """See `Phase.wanted`: nothing waits."""
        return [Wanted(trial) for trial in self.trials()]


def unique(wanted: Iterator[Wanted]) -> list[Wanted]:
    """Each trial once: by its content and label, those that wait by their label."""
    found: dict[tuple[str, str], Wanted] = {}
    for one in wanted:
        found.setdefault((one.trial.hash if one.is_known else "", one.trial.label), one)
    return [*found.values()]
