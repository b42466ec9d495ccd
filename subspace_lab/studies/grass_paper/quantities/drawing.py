"""What the pictures of several quantities share: seeds as points with their mean as a bar, and names of methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D

from subspace_lab._text import count
from subspace_lab.figures.style import COLOURS, INK, MARKERS

_HALF = 0.28  # width of a bar
_LEVEL: dict[str, Any] = {"color": INK, "linewidth": 0.9, "linestyle": (0, (4, 2))}


def seed_points(ax: Axes, table: pd.DataFrame, names: Sequence[str], *, by: str, y: str) -> None:
    """Draw the seeds of a table (column `y`) at one place of the x axis per name (column `by`), some perhaps empty."""
    for place, name in enumerate(names):
        values = table.loc[table[by] == name, y].dropna()
        if len(values):
            colour = COLOURS[place % len(COLOURS)]
            ax.plot([place] * len(values), values, "o", color=colour, alpha=0.55, markersize=3.2, markeredgewidth=0)
            ax.plot([place - _HALF, place + _HALF], [values.mean()] * 2, color=colour, linewidth=2)
    ax.set_xticks(range(len(names)), list(names))
    ax.set_xlim(-0.6, len(names) - 0.4)
    ax.grid(axis="x", visible=False)


def null_level(ax: Axes, value: float) -> None:
    """A dashed line behind the points: what the null reaches."""
    ax.axhline(value, **_LEVEL, zorder=1.5)


def seed_handles(level: str) -> list[Line2D]:
    """Entries of a legend for `seed_points` and `null_level`, whose dashed line is the mean of `level`."""
    return [
        Line2D([], [], color=INK, marker="o", markersize=3.2, linestyle="", alpha=0.55, label="one seed"),
        Line2D([], [], color=INK, linewidth=2, label="mean over seeds"),
        Line2D([], [], **_LEVEL, label=f"mean of {level}"),
    ]


def note_handle(text: str) -> Line2D:
    """An entry of a legend that explains a word or a number in the figure and has no mark of its own."""
    return Line2D([], [], linestyle="", label=text)


def seeds_of(table: pd.DataFrame) -> str:
    """How many seeds a figure rests on: ``3 seeds``, or ``1 to 3 seeds`` while some are to come."""
    keys = [name for name in ("method", "rule", "moments", "recovery", "setting", "value") if name in table]
    counts = table.groupby(keys, dropna=False)["seed"].nunique()
    low, high = int(counts.min()), int(counts.max())
    return f"{low} to {high} seeds" if low != high else count(low, "seed")


def point_style(place: int) -> dict[str, Any]:
    """Hollow and of two sizes, so that no point hides another; a second round of colours is darker than the first."""
    colour = np.array(to_rgb(COLOURS[place % len(COLOURS)]))
    if place >= len(COLOURS):
        colour = (colour + np.array(to_rgb(INK))) / 2
    return {
        "color": tuple(colour.tolist()),
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": "",
        "markersize": 7.5 if place % 2 == 0 else 4.5,
        "zorder": 3 + place % 2,
        "markerfacecolor": "none",
        "markeredgewidth": 1.3,
    }


def shown(method: str) -> str:
    """The name of a method in figures: that of its class, where it has one.

    Returns:
        Text.

    >>> shown("grasswalk rank=32"), shown("walk+AO")
    ('GrassWalk rank=32', 'walk+AO')
    """
    from subspace_lab.optim import METHODS

    name, space, rest = method.partition(" ")
    return (METHODS[name].__name__ if name in METHODS else name) + space + rest
