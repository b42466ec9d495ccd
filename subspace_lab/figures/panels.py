"""What the figures are put together from: grids of panels, bands, lines of stages and of kinds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D

from subspace_lab.figures.labels import end_labels, shortened
from subspace_lab.figures.style import COLOURS, DASHES, INK, MARKERS, NULL_DASHES, Layout
from subspace_lab.figures.tables import by_panel

NOISE: dict[str, Any] = {"color": INK, "linewidth": 0.9, "linestyle": NULL_DASHES[0], "zorder": 1.5}
FIXED: dict[str, Any] = {**NOISE, "linestyle": NULL_DASHES[1]}
NOISE_HANDLE = Line2D([], [], label="Gaussian noise", **NOISE)
_MOST_MARKERS = 40  # along a line


def grid(
    layout: Layout,
    names: Sequence[str],
    *,
    xlabel: str,
    ylabel: str,
    key: Sequence[Artist] = (),
    height: float = 1.45,
) -> tuple[Figure, dict[str, Axes]]:
    """One small panel per name, with common axes; the legend is in the first empty place, or above the panels.

    Args:
        layout: The size of the figure.
        names: The panels' names, which become their titles.
        xlabel: What all x axes show, with the unit.
        ylabel: What all y axes show, with the unit.
        key: The lines that the legend explains.
        height: Height of a panel in inches, at least; a single column has taller ones.

    Returns:
        The figure, and its axes by name.
    """
    columns = min(layout.columns, len(names))
    rows = -(-len(names) // columns)
    body = rows * max(height, 2.3 if columns == 1 else 0) + 0.75
    above = len(key) > 0 and len(names) == rows * columns
    key_columns = len(key) if layout.columns > 2 else 2
    head = (0.19 * -(-len(key) // key_columns) + 0.06) if above else 0.0
    figure = Figure(figsize=(layout.width, head + body), layout="constrained")
    main: FigureBase = figure
    if above:
        top, main = np.asarray(figure.subfigures(2, 1, height_ratios=(head, body)))
        top.legend(handles=key, loc="center left", ncols=key_columns, borderaxespad=0)
    axes = main.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    if len(key) > 0 and not above:
        axes.flat[len(names)].legend(handles=key, loc="center", borderpad=0, handlelength=2.2)
    for ax in axes.flat[len(names) :]:
        ax.set_axis_off()
    for ax in axes.flat[max(0, len(names) - columns) : len(names)]:
        ax.tick_params(labelbottom=True)
    for ax, name in zip(axes.flat, names, strict=False):
        ax.set_title(shortened(name, int(130 * layout.width / columns / layout.font_size)))
    main.supxlabel(xlabel)
    main.supylabel(ylabel)
    return figure, dict(zip(names, axes.flat, strict=False))


def line_style(position: int) -> dict[str, Any]:
    """Colour, marker and dashes of the panel at a position, for figures that draw all of them together."""
    return {
        "color": COLOURS[position % len(COLOURS)],
        "marker": MARKERS[position % len(MARKERS)],
        "linestyle": DASHES[position % len(DASHES)],
    }


def stage_style(position: int, num_stages: int) -> dict[str, Any]:
    """Marker and opacity of a stage of training: the later, the stronger."""
    return {"marker": MARKERS[position], "alpha": 1 - 0.65 * (num_stages - 1 - position) / max(1, num_stages - 1)}


def stage_handles(names: Iterable[str]) -> list[Line2D]:
    """Legend entries of the stages."""
    listed = list(names)
    return [
        Line2D([], [], color=INK, label=name, **stage_style(position, len(listed)))
        for position, name in enumerate(listed)
    ]


def band(ax: Axes, table: pd.DataFrame, x: str, y: str, colour: str) -> None:
    """The mean over layers as a line, from the lowest to the highest layer as a band.

    Args:
        ax: Where to draw.
        table: The rows of one panel.
        x: The column of the x axis.
        y: The column of the y axis.
        colour: The colour of both.
    """
    spread = table.groupby(x, observed=True)[y].agg(["mean", "min", "max"])
    if (spread["max"] > spread["min"]).any():
        ax.fill_between(spread.index, spread["min"], spread["max"], color=colour, alpha=0.25, linewidth=0)
    ax.plot(spread.index, spread["mean"], color=colour, marker="o" if len(spread) < 2 else "")


def stage_lines(ax: Axes, rows: pd.DataFrame, x: str, y: str, parts: dict[str, list[int]], position: int) -> None:
    """One line per stage, the mean over its steps and over the layers at each x.

    Args:
        ax: Where to draw.
        rows: The rows of one panel.
        x: The column of the x axis.
        y: The column of the y axis.
        parts: The stages, from `stages`.
        position: Where the panel stands in the run; it decides the colour.
    """
    for number, steps in enumerate(parts.values()):
        line = rows[rows["step"].isin(steps)].groupby(x, observed=True)[y].mean()
        ax.plot(line.index, line, color=COLOURS[position % len(COLOURS)], **stage_style(number, len(parts)))


def kind_height(num_kinds: int) -> float:
    """Height of a panel in inches that has room for the names of so many kinds, one below the other."""
    return max(1.9, 0.55 + 0.15 * num_kinds)


def kind_lines(ax: Axes, table: pd.DataFrame, x: str, y: str, order: dict[str, int], layout: Layout) -> None:
    """One labelled line per kind of layer, the mean over whatever else there is at each x.

    Args:
        ax: Where to draw, its limits final.
        table: From `load`.
        x: The column of the x axis.
        y: The column of the y axis.
        order: From `positions`.
        layout: The size of the figure.
    """
    ends = {}
    for panel, rows in by_panel(table):
        line = rows.groupby(x)[y].mean()
        style = line_style(order[panel])
        ax.plot(line.index, line, **style, markevery=-(-len(line) // _MOST_MARKERS))
        ends[panel] = (float(line.index[-1]), float(line.iloc[-1]), style["color"])
    end_labels(ax, ends, layout)
