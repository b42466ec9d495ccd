"""Verdicts by hand, and claims on tables whose answer is known."""

from __future__ import annotations

import pandas as pd
import pytest
from scipy import stats

from subspace_lab.experiments.claims import (
    INCONCLUSIVE,
    REFUTED,
    SUPPORTED,
    Statement,
    below,
    statement,
    together,
)


def seeds(*values: float) -> pd.Series:
    return pd.Series(values, index=range(len(values)), dtype=float)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((-1.0, -1.1, -0.9), SUPPORTED),
        ((1.0, 1.1, 0.9), REFUTED),
        ((-1.0, 1.0, 0.1), INCONCLUSIVE),
        ((-1.0,), INCONCLUSIVE),
        ((), INCONCLUSIVE),
    ],
)
def test_an_interval_decides(values, verdict):
    assert statement("s", seeds(*values)).verdict == verdict


def test_the_interval_is_that_of_a_paired_test():
    one, other = seeds(4.0, 4.2, 4.1), seeds(4.1, 4.25, 4.3)
    found = below("s", one, other)
    interval = stats.ttest_rel(one, other).confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert (found.mean, found.seeds) == (pytest.approx(-0.35 / 3), 3)


def test_seeds_pair_up_and_lone_ones_do_not_count():
    found = below("s", pd.Series({0: 1.0, 1: 2.0, 5: 9.0}), pd.Series({1: 2.5, 0: 1.5, 7: 0.0}))
    assert (found.mean, found.seeds, found.verdict) == (-0.5, 2, SUPPORTED)


def test_a_margin_is_what_does_not_count():
    one, other = seeds(4.01, 4.012, 4.008), seeds(4.0, 4.0, 4.0)
    assert below("s", one, other).verdict == REFUTED
    assert below("s", one, other, margin=0.02).verdict == SUPPORTED


def test_claims_of_several_statements():
    hold, fail, unknown = (Statement("s", (0.0,) * 3, *ends) for ends in ((-2, -1), (1, 2), (-1, 1)))
    assert together([hold, hold]) == SUPPORTED
    assert together([hold, unknown]) == INCONCLUSIVE
    assert together([unknown, fail, hold]) == REFUTED
    assert together([]) == INCONCLUSIVE
