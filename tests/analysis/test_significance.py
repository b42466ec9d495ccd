"""Intervals against scipy's tests, and Holm's procedure in the form of adjusted p values."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from subspace_lab.analysis.significance import holm_intervals, interval


def rejected(samples: list[pd.Series]) -> list[bool]:
    """By adjusted p values: the largest of (k - i + 1) p_i up to a place in the order, at most 0.05."""
    p = [float(stats.ttest_1samp(values, 0).pvalue) for values in samples]
    order = np.argsort(p)
    adjusted = np.maximum.accumulate([(len(p) - place) * p[one] for place, one in enumerate(order)])
    found = dict(zip(order.tolist(), (adjusted <= 0.05).tolist(), strict=True))
    return [found[place] for place in range(len(p))]


def test_an_interval_lies_beside_zero_exactly_where_holm_rejects() -> None:
    random, some = np.random.default_rng(0), 0
    for _ in range(200):
        means = random.choice([0, 0.5, 1, 2], size=random.integers(1, 6))
        samples = [pd.Series(random.normal(mean, 1, random.integers(2, 7))) for mean in means]
        beside = [low > 0 or high < 0 for low, high in holm_intervals(samples)]
        assert beside == rejected(samples)
        some += 0 < sum(beside) < len(beside)
    assert some > 20


def test_levels_by_hand() -> None:
    """Of three, the clear one has 1 - 0.05 / 3; the second is not decided, and the third has its level."""
    clear, open_, wide = pd.Series([9.0, 9.1, 9.2]), pd.Series([0.1, 0.5, 1.0]), pd.Series([-1.0, 0.0, 1.5])
    found = holm_intervals([wide, clear, open_])
    for values, ends, confidence in zip((wide, clear, open_), found, (0.975, 1 - 0.05 / 3, 0.975), strict=True):
        expected = stats.ttest_1samp(values, 0).confidence_interval(confidence)
        assert ends == pytest.approx((expected.low, expected.high))


def test_one_sample_has_the_usual_interval_and_short_ones_none() -> None:
    values = pd.Series([1.0, 2.0, 4.0])
    assert holm_intervals([values]) == [interval(values)]
    short, usual = holm_intervals([pd.Series([3.0]), values])
    assert all(math.isnan(end) for end in short)
    assert usual == interval(values)
    assert holm_intervals([]) == []


def test_samples_without_any_spread() -> None:
    same, zero, other = pd.Series([1.0, 1.0]), pd.Series([0.0, 0.0]), pd.Series([0.0, 1.0])
    found = holm_intervals([zero, same, other])
    assert found[:2] == [(0.0, 0.0), (1.0, 1.0)]
    assert found[2] == pytest.approx(interval(other, 0.975))
