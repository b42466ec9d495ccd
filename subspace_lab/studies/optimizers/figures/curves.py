"""Curves of the training loss with bands over seeds: what the figures over steps and over time share."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from subspace_lab.figures.axis import step_axis
from subspace_lab.figures.labels import end_labels
from subspace_lab.figures.panels import line_style
from subspace_lab.figures.style import Layout
from subspace_lab.studies.optimizers.figures.tables import Tables

_POINTS = 60  # along a curve
_SKIPPED = 0.1  # of the training, when the height of the axes is chosen
_MARKERS = 8  # along a curve


def draw_curves(tables: Tables, layout: Layout, *, x: str, xlabel: str) -> Figure:
    """The mean loss of each method over its seeds as a line, from the lowest to the highest seed as a band.

    Args:
        tables: Of a comparison.
        layout: The size of the figure.
        x: The column of the x axis.
        xlabel: Its label.

    Returns:
        The figure, not yet laid out.
    """
    curves = {method: averaged(rows, x) for method, rows in tables.best().items()}
    places = tables.places()
    figure = Figure(figsize=(layout.width, 3.4), layout="constrained")
    ax = figure.subplots()
    for method, curve in curves.items():
        style = line_style(places[method])
        ax.fill_between(curve[x], curve["low"], curve["high"], color=style["color"], alpha=0.2, linewidth=0)
        ax.plot(curve[x], curve["loss"], **style, markevery=max(1, len(curve) // _MARKERS))
    ax.set(xlabel=xlabel, ylabel="training loss")
    ax.set_xlim(0)
    _set_height(ax, list(curves.values()))
    step_axis(ax)
    ends = {
        method: (float(curve[x].iloc[-1]), float(curve["loss"].iloc[-1]), line_style(places[method])["color"])
        for method, curve in curves.items()
    }
    end_labels(ax, ends, layout)
    return figure


def averaged(rows: pd.DataFrame, x: str) -> pd.DataFrame:
    """Means over blocks of steps, then over seeds.

    Args:
        rows: The steps of a method at one learning rate.
        x: The column of the x axis, averaged too.

    Returns:
        x, loss, low and high (the lowest and the highest seed), one row per block.
    """
    width = -(-rows["step"].nunique() // _POINTS)
    blocks = rows.assign(block=rows["step"] // width)
    seeds = blocks.groupby(["block", "seed"])[list(dict.fromkeys([x, "loss"]))].mean()
    spread = seeds["loss"].groupby("block").agg(["mean", "min", "max"])
    return pd.DataFrame({
        x: seeds[x].groupby("block").mean(),
        "loss": spread["mean"],
        "low": spread["min"],
        "high": spread["max"],
    })


def _set_height(ax: Axes, curves: list[pd.DataFrame]) -> None:
    """What comes after the first steep fall decides, so that differences can be seen."""
    late = [curve.iloc[int(_SKIPPED * len(curve)) :] for curve in curves]
    low, high = min(float(c["low"].min()) for c in late), max(float(c["high"].max()) for c in late)
    if np.isfinite([low, high]).all():
        room = 0.06 * (high - low) or 0.05
        ax.set_ylim(low - room, high + room)
