"""The interval of a mean, and which energies and overlaps differ significantly from those of noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from subspace_lab.numerics import null_noise_margin

if TYPE_CHECKING:
    import pandas as pd


CONFIDENCE = 0.95


def interval(values: pd.Series[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Student's interval of a mean, by scipy; NaN of fewer than two values.

    Args:
        values: The sample.
        confidence: Probability that it covers the mean.

    Returns:
        Its lower and its upper end.
    """
    from scipy import stats

    if len(values) < 2:
        return np.nan, np.nan
    error = float(stats.sem(values))
    if error == 0:
        return float(values.mean()), float(values.mean())
    low, high = stats.t.interval(confidence, len(values) - 1, loc=values.mean(), scale=error)
    return float(low), float(high)


def holm_intervals(samples: Sequence[pd.Series[float]]) -> list[tuple[float, float]]:
    """Student's intervals of several means, each at the level at which Holm's procedure tests whether its mean is zero.

    So the chance that any interval of means that are all zero lies beside zero is at most 5 %. Of k samples, the one
    with the smallest p value has an interval of confidence 1 - 0.05 / k, the next one of 1 - 0.05 / (k - 1), and so on
    up to the first that contains zero, whose confidence the others have too (Holm 1979, Scand. J. Statist. 6:65-70).

    Args:
        samples: Those of fewer than two values are not tested.

    Returns:
        Lower and upper ends in the order of the samples.
    """
    p = [_p_value(values) for values in samples]
    tested = sorted((place for place, value in enumerate(p) if value == value), key=lambda place: p[place])
    found, left, rejects = [(np.nan, np.nan)] * len(samples), len(tested), True
    for place in tested:
        found[place] = interval(samples[place], 1 - (1 - CONFIDENCE) / left)
        rejects = rejects and p[place] <= (1 - CONFIDENCE) / left
        left -= rejects
    return found


def _p_value(values: pd.Series[float]) -> float:
    """Of Student's test whether the mean is zero; NaN of fewer than two values."""
    from scipy import stats

    if len(values) < 2:
        return np.nan
    error = float(stats.sem(values))
    if error == 0:
        return float(values.mean() == 0)
    return 2 * float(stats.t.sf(abs(values.mean()) / error, len(values) - 1))


def above_noise(own: pd.DataFrame, by: str) -> pd.Series[bool]:
    """Where the mean energy of own spaces is significantly above that of noise: by more than noise scatters.

    Args:
        own: Rows of the energy table with ``basis == "own"``; each group has one rank and one shape.
        by: The column that groups them.

    Returns:
        True or False for each value of that column; see `subspace_lab.numerics.null_noise_margin`.
    """
    groups = own.groupby(by, observed=True)
    means, counts = groups[["fraction", "null_noise"]].mean(), groups.size()
    shapes = groups[["rank", "m", "n"]].first()
    margins = [
        null_noise_margin(int(rank), int(m), int(n), int(count))
        for (rank, m, n), count in zip(shapes.to_numpy(), counts, strict=True)
    ]
    significant: pd.Series[bool] = means["fraction"] - means["null_noise"] > np.array(margins)
    return significant


def above_chance(angles: pd.DataFrame, smallest: int) -> bool:
    """Whether the mean overlap is significantly above that of random subspaces: by four standard errors of theirs.

    The overlap of two random r-spaces in m dimensions has variance ``2 (1 - r/m)^2 / ((m - 1) (m + 2))``.

    Args:
        angles: Rows of the angles table.
        smallest: The smallest m among their layers, at least 1.

    Returns:
        True or False.
    """
    m = max(smallest, 2)
    scatter = float(1 - angles["null_overlap"].min()) * (2 / ((m - 1) * (m + 2) * len(angles))) ** 0.5
    return bool(angles["overlap"].mean() - angles["null_overlap"].mean() > 4 * scatter)
