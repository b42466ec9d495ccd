"""What a number says of a claim: an interval over seeds, and one of three verdicts by stated rules."""

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
    """A claim and what decides it.

    Attributes:
        name: What the page calls it.
        text: What is claimed, where.
        figures: Names of the pictures that show it.
        statements: Makes its statements of the tables in a store; an empty list where the tables are not there yet.
    """

    name: str
    text: str
    figures: tuple[str, ...]
    statements: Callable[[Any], list[Statement]]


def statement(text: str, values: pd.Series[float], *, unit: str = "nats") -> Statement:
    """A statement about a mean over seeds.

    Args:
        text: What is stated.
        values: One number per seed.
        unit: Of the number.

    Returns:
        The statement with its interval.
    """
    values = values.dropna()
    low, high = interval(values)
    return Statement(text, float(values.mean()), low, high, len(values), unit)


def below(text: str, one: pd.Series[float], other: pd.Series[float], *, margin: float = 0.0) -> Statement:
    """That one loss is below another one, or worse by less than a margin.

    Args:
        text: What is stated.
        one: Losses by seed.
        other: Losses by seed.
        margin: What does not count.

    Returns:
        The statement about their difference, paired by seed.
    """
    return statement(text, one - other - margin)


def together(statements: Iterable[Statement]) -> Verdict:
    """The verdict on a claim of several statements.

    Args:
        statements: At least one, or the claim cannot be told.

    Returns:
        The verdict.
    """
    found: Sequence[Verdict] = [one.verdict for one in statements]
    if REFUTED in found:
        return REFUTED
    return SUPPORTED if found and all(verdict == SUPPORTED for verdict in found) else INCONCLUSIVE
