"""Panels of a study with a legend above them: rows of defenses or layers, and points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase

from subspace_lab.analysis.significance import interval
from subspace_lab.figures.labels import shortened
from subspace_lab.figures.style import INK, Layout

_NAME = 24  # characters
_MOST = 3  # panels side by side
_BAND = 0.04  # opacity behind every second row


def row_panels(
    layout: Layout, panels: Mapping[str, Sequence[str]], *, xlabel: str, key: Sequence[Artist], row: float
) -> tuple[Figure, dict[str, Axes]]:
    """One panel per title with a row for each of its names; panels of the same names share a line of panels.

    Args:
        layout: The size of the figure.
        panels: Title -> names, the first one at the top.
        xlabel: What all panels show.
        key: What the legend above the panels explains.
        row: Height of a row in inches.

    Returns:
        The figure, and its axes by title; row k is at the height k, downwards.
    """
    columns = 1 if layout.columns <= 2 else _MOST
    lines: list[list[str]] = []
    for title, names in panels.items():
        if lines and len(lines[-1]) < columns and [*panels[lines[-1][0]]] == [*names]:
            lines[-1].append(title)
        else:
            lines.append([title])
    heights = [0.42 + row * len(panels[line[0]]) for line in lines]
    figure, body = _with_key(layout, key, sum(heights) + 0.25)
    grid = body.add_gridspec(len(lines), max(map(len, lines)), height_ratios=heights)
    found: dict[str, Axes] = {}
    for place, line in enumerate(lines):
        for column, title in enumerate(line):
            ax = body.add_subplot(grid[place, column])
            names = panels[title]
            ax.set_ylim(len(names) - 0.5, -0.5)
            ax.set_yticks(range(len(names)), [shortened(name, _NAME) if column == 0 else "" for name in names])
            ax.tick_params(axis="y", length=0)
            ax.grid(axis="y", visible=False)
            for number in range(1, len(names), 2):
                ax.axhspan(number - 0.5, number + 0.5, color=INK, alpha=_BAND, linewidth=0, zorder=0)
            ax.set_title(shortened(title, 34))
            found[title] = ax
    body.supxlabel(xlabel)
    return figure, found


def over_seeds(values: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds with Student's intervals, as `draw_marks` takes them.

    Args:
        values: The columns title, name, series, seed and value.

    Returns:
        title, name, series, value, low and high; NaN for the ends of a single seed.
    """
    by_seed = values.groupby(["title", "name", "series", "seed"], sort=False)["value"].mean().dropna()
    found = []
    for (title, name, series), seeds in by_seed.groupby(["title", "name", "series"], sort=False):
        low, high = interval(seeds)
        found.append((title, name, series, float(seeds.mean()), low, high))
    return pd.DataFrame(found, columns=["title", "name", "series", "value", "low", "high"])


def draw_marks(
    axes: Mapping[str, Axes],
    panels: Mapping[str, Sequence[str]],
    marks: pd.DataFrame,
    styles: Mapping[str, Mapping[str, Any]],
) -> None:
    """Draw marks into the panels of `row_panels`: in every row the series one below the other.

    Args:
        axes: By title.
        panels: Title -> names of the rows.
        marks: title, name, series, value, and low and high for an interval.
        styles: Of every series, the first one at the top.
    """
    shifts = dict(zip(styles, offsets(len(styles)), strict=True))
    for (title, series), of in marks.groupby(["title", "series"], sort=False):
        ax, style = axes[str(title)], styles[str(series)]
        heights = np.array([panels[str(title)].index(name) for name in of["name"]]) + shifts[str(series)]
        if "low" in of and (known := of["low"].notna().to_numpy()).any():
            low, high = (of[end].to_numpy()[known] for end in ("low", "high"))
            ax.hlines(heights[known], low, high, color=style["color"], linewidth=0.9)
        ax.plot(of["value"], heights, **{"linestyle": "", "markersize": 4.2, "clip_on": False, **style})


def offsets(number: int) -> list[float]:
    """Heights of several marks in one row, relative to its middle, the first one at the top."""
    return [0.0] if number == 1 else [-0.27 + 0.54 * place / (number - 1) for place in range(number)]


def point_panels(
    layout: Layout, names: Sequence[str], *, key: Sequence[Artist], xlabel: str, ylabel: str
) -> tuple[Figure, dict[str, Axes]]:
    """Panels of points with common axes.

    Args:
        layout: The size of the figure.
        names: The panels' names, which become their titles.
        key: What the legend explains.
        xlabel: What all x axes show.
        ylabel: What all y axes show.

    Returns:
        The figure, and its axes by name.
    """
    columns = min(len(names), 1 if layout.columns <= 2 else _MOST)
    lines = -(-len(names) // columns)
    figure, body = _with_key(layout, key, 0.3 + (2.4 if columns == 1 else 2.1) * lines)
    axes = body.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for ax in axes.flat[len(names) :]:
        ax.set_axis_off()
    for ax in axes.flat[max(0, len(names) - columns) : len(names)]:
        ax.tick_params(labelbottom=True)
    for ax, name in zip(axes.flat, names, strict=False):
        ax.set_title(shortened(name, 34))
    body.supxlabel(xlabel)
    body.supylabel(ylabel)
    return figure, dict(zip(names, axes.flat, strict=False))


def _with_key(layout: Layout, key: Sequence[Artist], height: float) -> tuple[Figure, FigureBase]:
    """A figure with a legend at its top, and what is below the legend."""
    widest = max(len(str(one.get_label())) for one in key)
    columns = max(1, min(len(key), int(layout.width * 16.5 / (widest + 7))))
    head = 0.19 * -(-len(key) // columns) + 0.06
    figure = Figure(figsize=(layout.width, head + height), layout="constrained")
    top, body = np.asarray(figure.subfigures(2, 1, height_ratios=(head, height)))
    top.legend(handles=[*key], loc="center left", ncols=columns, borderaxespad=0)
    return figure, body
