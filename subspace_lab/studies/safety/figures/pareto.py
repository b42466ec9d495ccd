"""Attack success against utility, with what no other defense beats in both."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from subspace_lab.figures.labels import shortened
from subspace_lab.figures.panels import line_style
from subspace_lab.figures.style import INK, NULL_DASHES, Layout, picture
from subspace_lab.figures.tables import AbsentError
from subspace_lab.studies.safety.figures.rows import point_panels
from subspace_lab.studies.safety.reading import Tables, titles

_KEY = ["policy", "task", "regime"]


@picture(
    "Attack success and utility",
    "Every defense at every learning rate under the largest share of poison that leaves a task; means over seeds. "
    "Lower and further right is better; the dashed line joins what nothing else beats in both. Left of the dotted "
    "line, 0.9 of the best undefended utility, a defense is not counted in the headline: a model that answers "
    "nothing is safe. Points of one mark are learning rates. Differences as small as the seeds' spread may change "
    "the line.",
)
def pareto(tables: Tables, layout: Layout) -> Figure:
    """Draw a point per defense and learning rate, a panel per task and optimizer."""
    rows = tables.tuned
    if rows.empty or tables.attack is None:
        raise AbsentError("No attack success under a threat is measured.")
    rows = rows[rows["threat"] == tables.attack].dropna(subset=["asr", "utility"])
    if rows.empty:
        raise AbsentError("No attack success is measured beside a utility.")
    means = rows.groupby([*_KEY, "defense", "lr"], sort=False)[["asr", "utility"]].mean().reset_index()
    styles = {name: {**line_style(place), "linestyle": ""} for place, name in enumerate(tables.defenses)}
    cells = list(dict.fromkeys(means[_KEY].itertuples(index=False, name=None)))
    named = titles(cells)
    key = [
        Line2D([], [], markersize=4.5, label=shortened(name, 30), **style)
        for name, style in styles.items()
        if name in set(means["defense"])
    ]
    figure, axes = point_panels(
        layout, list(named.values()), key=key, xlabel="utility on held-out rows of the task", ylabel="attack success"
    )
    for cell, title in named.items():
        of, ax = means[(means[_KEY] == list(cell)).all(axis=1)], axes[title]
        front = pareto_front(of)
        ax.plot(front["utility"], front["asr"], color=INK, linewidth=0.9, linestyle=NULL_DASHES[0], zorder=1.5)
        guard = tables.guard(policy=cell[0], task=cell[1], regime=cell[2], threat=tables.attack)
        if guard == guard:
            ax.axvline(guard, color=INK, linewidth=0.9, linestyle=NULL_DASHES[1], zorder=1.5)
        for defense, points in of.groupby("defense", sort=False):
            style: dict[str, Any] = styles[str(defense)]
            ax.plot(points["utility"], points["asr"], markersize=4.5, markeredgecolor="none", clip_on=False, **style)
        ax.set_ylim(-0.03, 1.03)
    return figure


def pareto_front(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that no other one beats in ``asr`` (lower) and in ``utility`` (higher), by utility.

    Args:
        table: Its rows.

    Returns:
        Some of the rows, the highest utility first.
    """
    ordered = table.sort_values(["utility", "asr"], ascending=[False, True])
    before = ordered["asr"].cummin().shift()
    return ordered[before.isna() | (ordered["asr"] < before)]
