"""The interval of a mean, and which energies and overlaps differ significantly from those of noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from subspace_lab.numerics import null_noise_margin

if TYPE_CHECKING:
    import pandas as pd


CONFIDENCE = 0.95


def interval(values: pd.Series[float]) -> tuple[float, float]:
    """Student's 95 % interval of a mean, by scipy; NaN of fewer than two values.

    Args:
        values: The sample.

    Returns:
        Its lower and its upper end.
    """
    from scipy import stats

    if len(values) < 2:
        return np.nan, np.nan
    error = float(stats.sem(values))
    if error == 0:
        return float(values.mean()), float(values.mean())
    low, high = stats.t.interval(CONFIDENCE, len(values) - 1, loc=values.mean(), scale=error)
    return float(low), float(high)


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
