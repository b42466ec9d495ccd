"""How a quantity changes over training and over depth, and how even the values of a spectrum are.

Findings, figures, reports and claims all use these definitions. Each takes the rows of a table and returns a value for
each group, so that the caller chooses what to average and what to take an interval over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def thirds(steps: Iterable[int]) -> tuple[list[int], list[int], list[int]]:
    """The first third of the steps, the middle and the last third.

    The outer thirds have equally many steps, a third of them rounded down; what remains is in the middle. So neither
    end is the mean of more steps than the other, and in the reverse order a change has the opposite sign and the same
    size. Two steps are an early and a late one; a single step is in the middle, so that there is no change.

    Args:
        steps: Captured steps in any order, repeated or not.

    Returns:
        Three lists of different steps, ascending.

    >>> thirds([0, 10, 20, 30, 40])
    ([0], [10, 20, 30], [40])
    """
    ordered = sorted({int(step) for step in steps})
    size = max(len(ordered) // 3, min(len(ordered) // 2, 1))
    late = len(ordered) - size
    return ordered[:size], ordered[size:late], ordered[late:]


def change_over_training(
    table: pd.DataFrame, value: str = "ratio", *, by: Sequence[str] = ("layer",)
) -> pd.Series[float]:
    """The mean over the last third of the steps minus the mean over the first third, group by group.

    The difference is taken within each group (by default each layer): a layer that has no value at one end of the
    training is left out, where the difference of two means over all layers would take it for a change.

    Args:
        table: Rows with ``step``, `value` and the columns `by`; NaN values are left out.
        value: The column that may change.
        by: The columns that tell groups apart.

    Returns:
        The change of each group that has values in both thirds, in units of `value`; empty for a single step.
    """
    early, _, late = (
        table[table["step"].isin(part)].groupby(list(by), observed=True)[value].mean() for part in thirds(table["step"])
    )
    change: pd.Series[float] = (late - early).dropna()
    return change


def change_over_depth(table: pd.DataFrame, value: str = "ratio", *, by: Sequence[str] = ("kind",)) -> pd.Series[float]:
    """The change from the first to the last block along a line of least squares, group by group.

    The line goes through the means of the blocks, each of which counts once, and is taken within each group (by default
    each kind of layers), since kinds differ by more than blocks do. It uses every block; the difference of outer thirds
    would rest on two blocks of a model of five, and the difference of the ends on two of any model.

    Args:
        table: Rows with ``depth``, `value` and the columns `by`; negative depths (layers outside of the blocks) and NaN
            values are left out.
        value: The column that may change.
        by: The columns that tell groups apart.

    Returns:
        Slope times the difference of the last and the first depth, of each group with two blocks or more, in units of
        `value`.
    """
    import pandas as pd
    from scipy import stats

    blocks = table[table["depth"] >= 0].groupby([*by, "depth"], observed=True)[value].mean().dropna().reset_index()
    changes = {}
    for group, rows in blocks.groupby(list(by), observed=True):
        if len(rows) > 1:
            depths = rows["depth"].astype(float)
            changes[group] = stats.linregress(depths, rows[value]).slope * (depths.max() - depths.min())
    index = pd.MultiIndex.from_tuples(list(changes), names=list(by))
    return pd.Series(list(changes.values()), index=index, dtype=float)


def evenness(
    table: pd.DataFrame, value: str = "normalized", *, by: Sequence[str] = ("step", "layer", "lag_steps")
) -> pd.Series[float]:
    """The last tabulated singular value over the first one, spectrum by spectrum: 1 where all are equal.

    The ratio is taken within each spectrum, so that a mean of them does not follow the spectra of the largest values.

    Args:
        table: Rows with ``index`` (0 the largest), `value` and the columns `by`; NaN values are left out.
        value: The column with the singular values, not negative.
        by: The columns that tell spectra apart.

    Returns:
        In [0, 1] for each spectrum whose first value is positive.
    """
    spectra = table.dropna(subset=[value]).sort_values("index").groupby(list(by), observed=True)[value]
    ends = spectra.agg(["first", "last"])
    ends = ends[ends["first"] > 0]
    ratio: pd.Series[float] = ends["last"] / ends["first"]
    return ratio
