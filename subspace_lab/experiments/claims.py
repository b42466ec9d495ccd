"""Claims: statements about a number per seed, its interval, and one of three verdicts by fixed rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd

from subspace_lab.analysis.significance import holm_intervals, interval

Verdict = Literal["supported", "refuted", "inconclusive"]
SUPPORTED: Verdict = "supported"
REFUTED: Verdict = "refuted"
INCONCLUSIVE: Verdict = "inconclusive"
MATCH = 0.02  # nats: a loss that is worse by less counts as a match

RULES = f"""\
Every statement is put as a number that is negative where the claim is right, measured once per seed. With its interval
over seeds (Student's t, by scipy; differences between trainings are paired by seed), the statement is
*supported* where the interval lies below zero, *refuted* at this scale where it lies above, and *inconclusive* where it
contains zero or there are fewer than two seeds. To "match" is to be worse by less than {MATCH:g} nats. A claim of
several statements is supported where all of them are, refuted where one of them is, and inconclusive otherwise.
The statements of a claim are a family: their intervals are adjusted by Holm's procedure, so that the chance to decide
any of them where none is true of anything is at most 5 %. An interval is therefore one of 95 % for a single statement,
and wider for the first of several."""


@dataclass(frozen=True)
class Statement:
    """One number that decides, negative where the claim is right.

    Attributes:
        text: What is stated.
        values: By seed.
        low: Lower end of its interval, NaN below two seeds.
        high: Upper end.
        unit: Of the number.
    """

    text: str
    values: tuple[float, ...]
    low: float
    high: float
    unit: str = "nats"

    @property
    def mean(self) -> float:
        """Over seeds, NaN without any."""
        return sum(self.values) / len(self.values) if self.values else float("nan")

    @property
    def seeds(self) -> int:
        """How many."""
        return len(self.values)

    @property
    def verdict(self) -> Verdict:
        """By the rules of the page."""
        if not (self.low == self.low and self.high == self.high):
            return INCONCLUSIVE
        if self.high < 0:
            return SUPPORTED
        return REFUTED if self.low > 0 else INCONCLUSIVE


@dataclass(frozen=True)
class Claim:
    """A claim and the statements that decide it.

    Attributes:
        name: Its heading on the page.
        text: The claim, and where it is made.
        figures: Names of the pictures that show it; it is not measured while the first has no table.
        measure: Makes its statements from the tables in a store, each with an interval of its own; an empty list while
            a table is missing.
    """

    name: str
    text: str
    figures: tuple[str, ...]
    measure: Callable[[Any], list[Statement]]

    def statements(self, store: Any) -> list[Statement]:
        """Its statements, their intervals adjusted for each other."""
        return family(self.measure(store))


def statement(text: str, values: pd.Series[float], *, unit: str = "nats") -> Statement:
    """The mean of one number per seed, with its interval."""
    values = values.dropna()
    low, high = interval(values)
    return Statement(text, tuple(map(float, values)), low, high, unit)


def family(statements: Sequence[Statement]) -> list[Statement]:
    """The same statements, their intervals adjusted by Holm's procedure."""
    ends = holm_intervals([pd.Series(one.values, dtype="float64") for one in statements])
    return [replace(one, low=low, high=high) for one, (low, high) in zip(statements, ends, strict=True)]


def below(text: str, one: pd.Series[float], other: pd.Series[float], *, margin: float = 0.0) -> Statement:
    """That one loss is below another one by seed, or worse by less than `margin`; the difference is paired by seed."""
    return statement(text, one - other - margin)


def together(statements: Iterable[Statement]) -> Verdict:
    """The verdict on a claim of several statements; inconclusive where there are none."""
    found: Sequence[Verdict] = [one.verdict for one in statements]
    if REFUTED in found:
        return REFUTED
    return SUPPORTED if found and all(verdict == SUPPORTED for verdict in found) else INCONCLUSIVE
