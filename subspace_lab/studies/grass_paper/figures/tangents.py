"""Singular values of the derivative of the subspace error, a panel per kind: what the two forms of Fig. 2 share."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from subspace_lab.figures.axis import log_axis
from subspace_lab.figures.panels import NOISE, NOISE_HANDLE, grid, stage_style
from subspace_lab.figures.style import COLOURS, INK, Layout
from subspace_lab.figures.tables import AbsentError


def draw_tangents(table: pd.DataFrame, layout: Layout, *, y: str, ylabel: str) -> Figure:
    """Means over seeds and layers, a line per step.

    Args:
        table: Of the experiment ``fig2``.
        layout: The size of the figure.
        y: ``singular_value`` or ``normalized``, which has a null.
        ylabel: Its label, but for the rank at its end.

    Returns:
        The figure, not yet laid out.

    Raises:
        AbsentError: If there is nothing to draw.
    """
    table = table[table[y] > 0]
    if table.empty:
        raise AbsentError("No captured run came to its end.")
    means = table.groupby(["kind", "step", "index"], sort=False)[[y, "null_noise"]].mean().reset_index()
    kinds, steps = list(dict.fromkeys(table["kind"])), sorted(set(table["step"]))
    key = [
        Line2D([], [], color=INK, label=f"step {step}", **stage_style(place, len(steps)))
        for place, step in enumerate(steps)
    ]
    has_null = y == "normalized"
    lag, seeds = int(table["lag_steps"].min()), table["seed"].nunique()
    figure, axes = grid(
        layout, kinds, ylabel=f"{ylabel} {int(table['rank'].iloc[0])}",
        key=[*key, *([NOISE_HANDLE] if has_null else [])],
        xlabel=f"index, at a basis {lag} steps old (mean of {seeds} seed{'s' * (seeds != 1)})",
    )  # fmt: skip
    low, high = float(means[y].quantile(0.02)), float(means[y].max())
    for place, kind in enumerate(kinds):
        ax, rows = axes[kind], means[means["kind"] == kind]
        log_axis(ax, low=low, high=high)
        ax.set_xticks([1, 5, 10, 15, 20])
        for number, step in enumerate(steps):
            line = rows[rows["step"] == step]
            ax.plot(line["index"] + 1, line[y], color=COLOURS[place % len(COLOURS)], **stage_style(number, len(steps)))
        if has_null:
            null = rows.groupby("index")["null_noise"].mean()
            ax.plot(null.index + 1, null.where(null > 0), **NOISE)
    return figure
