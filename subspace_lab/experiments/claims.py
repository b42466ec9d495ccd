"""Claims: statements about a number per seed, its interval, and one of three verdicts by fixed rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from subspace_lab.analysis.significance import interval

Verdict = Literal["supported", "refuted", "inconclusive"]
SUPPORTED: Verdict = "supported"
REFUTED: Verdict = "refuted"
INCONCLUSIVE: Verdict = "inconclusive"
MATCH = 0.02  # nats: a loss that is worse by less counts as a match

RULES = f"""\
Every statement is put as a number that is negative where the claim is right, measured once per seed. With its 95 %
interval over seeds (Student's t, by scipy; differences between trainings are paired by seed), the statement is
*supported* where the interval lies below zero, *refuted* at this scale where it lies above, and *inconclusive* where it
contains zero or there are fewer than two seeds. To "match" is to be worse by less than {MATCH:g} nats. A claim of
several statements is supported where all of them are, refuted where one of them is, and inconclusive otherwise.
Intervals are not adjusted for the number of statements: of a hundred that are true of nothing, about five are decided
by chance. The learning rate of every training was chosen on the first of the seeds, by the same grid for all."""


@dataclass(frozen=True)
class Statement:
    """One number that decides, negative where the claim is right.

    Attributes:
        text: What is stated.
        mean: Over seeds.
        low: Lower end of its 95 % interval, NaN below two seeds.
        high: Upper end.
        seeds: How many.
        unit: Of the number.
    """

    text: str
    mean: float
    low: float
    high: float
    seeds: int
    unit: str = "nats"

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
        figures: Names of the pictures that show it.
        statements: Makes its statements from the tables in a store; an empty list while a table is missing.
    """

    name: str
    text: str
    figures: tuple[str, ...]
    statements: Callable[[Any], list[Statement]]


def statement(text: str, values: pd.Series[float], *, unit: str = "nats") -> Statement:
    """The mean of one number per seed, with its interval."""
    values = values.dropna()
    low, high = interval(values)
    return Statement(text, float(values.mean()), low, high, len(values), unit)


def below(text: str, one: pd.Series[float], other: pd.Series[float], *, margin: float = 0.0) -> Statement:
    """That one loss is below another one by seed, or worse by less than `margin`; the difference is paired by seed."""
    return statement(text, one - other - margin)


def together(statements: Iterable[Statement]) -> Verdict:
    """The verdict on a claim of several statements; inconclusive where there are none."""
    found: Sequence[Verdict] = [one.verdict for one in statements]
    if REFUTED in found:
        return REFUTED
    return SUPPORTED if found and all(verdict == SUPPORTED for verdict in found) else INCONCLUSIVE
