"""What is told from noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from subspace_lab.numerics import null_noise_margin

if TYPE_CHECKING:
    import pandas as pd


def above_noise(own: pd.DataFrame, by: str) -> pd.Series[bool]:
    """Where the mean energy of own spaces lies above that of noise by more than noise scatters.

    Args:
        own: Rows of the energy table with ``basis == "own"``; in each group of one rank and shape.
        by: The column that groups them.

    Returns:
        For each value of that column whether its energies are told from noise; see
        `subspace_lab.numerics.null_noise_margin`.
    """
    groups = own.groupby(by, observed=True)
    means, counts = groups[["fraction", "null_noise"]].mean(), groups.size()
    shapes = groups[["rank", "m", "n"]].first()
    margins = [
        null_noise_margin(int(rank), int(m), int(n), int(count))
        for (rank, m, n), count in zip(shapes.to_numpy(), counts, strict=True)
    ]
    told: pd.Series[bool] = means["fraction"] - means["null_noise"] > np.array(margins)
    return told


def above_chance(angles: pd.DataFrame, smallest: int) -> bool:
    """Whether the mean overlap lies above that of random subspaces by more than theirs scatters.

    The overlap of two random r-spaces in m dimensions has variance ``2 (1 - r/m)^2 / ((m - 1) (m + 2))``.

    Args:
        angles: Rows of the angles table.
        smallest: The smallest m among their layers, at least 1.

    Returns:
        Whether they are told from random.
    """
    m = max(smallest, 2)
    scatter = float(1 - angles["null_overlap"].min()) * (2 / ((m - 1) * (m + 2) * len(angles))) ** 0.5
    return bool(angles["overlap"].mean() - angles["null_overlap"].mean() > 4 * scatter)
