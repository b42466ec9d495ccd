"""How far each rule gets down Ackley's function, at the two scale factors of SubTrack++'s Fig. 6."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from subspace_lab.figures.axis import step_axis
from subspace_lab.figures.labels import end_labels
from subspace_lab.figures.panels import grid, line_style
from subspace_lab.figures.style import Layout, styled_figure
from subspace_lab.figures.tables import AbsentError

TITLE = "Ackley's function in subspaces"
CAPTION = (
    "Value over the steps (the minimum is 0): the line is the median over the starting points, the band holds the "
    "middle half of them. The entries of a 16 × 16 matrix are the coordinates, rank 4, a refresh every 10 steps; "
    "the scale factors are those of the published figure, its other settings are not known. "
    "A scale only multiplies the learning rate, so the panels are two learning rates, and what suits one method need "
    "not suit another: see the value by scale before ranking them. What a rule has to beat is a basis that is never "
    "refreshed: frozen alone for GaLore and tracking alone, frozen for the others, which carry the moments over and "
    "recover the rest of the gradient."
)
SHOWN = (1.0, 3.0)


@styled_figure(TITLE)
def draw(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    scales = [scale for scale in SHOWN if (table["scale"] == scale).any()]
    if not scales:
        raise AbsentError("Neither scale 1 nor scale 3 was measured.")
    names = {scale: f"scale {scale:g}" for scale in scales}
    figure, axes = grid(
        replace(layout, columns=max(1, layout.columns // 2)),
        list(names.values()),
        xlabel="step",
        ylabel="value of Ackley's function",
        height=2.6,
    )
    shown = table[table["scale"].isin(scales)]
    places = {method: place for place, method in enumerate(dict.fromkeys(table["method"]))}
    curves = {scale: quartiles(shown[shown["scale"] == scale], "value") for scale in scales}
    top = max(float(curve["high"].max()) for curve in curves.values())
    for scale, name in names.items():
        axes[name].set_ylim(0, 1.05 * top)
        step_axis(axes[name])
        lines(axes[name], curves[scale], places, layout)
    return figure


def quartiles(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Median and quartiles over the seeds.

    Args:
        rows: Of one scale.
        column: What to summarize.

    Returns:
        Columns middle, low and high, by method and step.
    """
    summary = rows.groupby(["method", "step"])[column].quantile(np.array([0.25, 0.5, 0.75])).unstack()
    return summary.set_axis(["low", "middle", "high"], axis=1)


def lines(ax: Axes, curves: pd.DataFrame, places: dict[str, int], layout: Layout) -> None:
    """One labelled line with its band per method.

    Args:
        ax: Where to draw, its limits final.
        curves: From `quartiles`.
        places: Methods in their order, which decides the style.
        layout: The size of the figure.
    """
    ends = {}
    for method, place in places.items():
        curve, style = curves.loc[method].dropna(), line_style(place)
        every = max(1, len(curve) // 6)
        ax.fill_between(curve.index, curve["low"], curve["high"], color=style["color"], alpha=0.18, linewidth=0)
        ax.plot(curve.index, curve["middle"], **style, markevery=(place * every // len(places), every))
        ends[method] = (float(curve.index[-1]), float(curve["middle"].iloc[-1]), style["color"])
    end_labels(ax, ends, layout)
