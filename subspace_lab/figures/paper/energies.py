"""Energy ratios by kind of layer, one panel per rank: what the two halves of Fig. 1 share."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from subspace_lab.figures.axis import limits, step_axis
from subspace_lab.figures.panels import FIXED, NOISE, grid, line_style
from subspace_lab.figures.style import Layout
from subspace_lab.figures.tables import AbsentError


def draw_energies(table: pd.DataFrame, layout: Layout, *, x: str, xlabel: str) -> Figure:
    """Means over seeds and whatever is not shown, by kind, with both nulls.

    Args:
        table: Of the experiment ``fig1``.
        layout: The size of the figure.
        x: ``step`` or ``depth``.
        xlabel: Its label.

    Returns:
        The figure, not yet laid out.

    Raises:
        AbsentError: If there is nothing to draw.
    """
    if table.empty:
        raise AbsentError("No captured run came to its end.")
    ranks = sorted(set(table["rank"]))
    width = int(table["m"].median())
    panels = {rank: f"r = {rank}, r/m = 1/{width / rank:g}" for rank in ranks}
    kinds = list(dict.fromkeys(table["kind"]))
    styles = {kind: {**line_style(place), "markersize": 2.5} for place, kind in enumerate(kinds)}
    key = [Line2D([], [], label=kind, **style) for kind, style in styles.items()]
    key += [Line2D([], [], label="noise, own basis", **NOISE), Line2D([], [], label="noise, fixed basis", **FIXED)]
    seeds = table["seed"].nunique()
    columns = 3 if layout.columns > 2 else layout.columns
    figure, axes = grid(
        Layout(layout.width, columns, layout.font_size, layout.titled), list(panels.values()), xlabel="", height=1.7,
        ylabel=f"‖SᵀG‖ / ‖G‖, mean of {seeds} seed{'s' * (seeds != 1)}",
    )  # fmt: skip
    for ax in list(axes.values())[-min(columns, len(axes)) :]:
        ax.set_xlabel(xlabel)
    figure.legend(handles=key, loc="outside lower center", ncols=5 if layout.columns > 2 else 2)
    for rank, name in panels.items():
        rows, ax = table[table["rank"] == rank], axes[name]
        for kind, of_kind in rows.groupby("kind", sort=False):
            line = of_kind.groupby(x)["ratio"].mean()
            ax.plot(line.index, line, **styles[str(kind)], markevery=max(1, len(line) // 6))
        for value in sorted(set(rows["null_noise"].round(3))):
            ax.axhline(value, **NOISE)
        ax.axhline(float(rows["null_isotropic"].mean()), **FIXED)
        step_axis(ax)
    next(iter(axes.values())).set_ylim(
        limits(table.groupby(["rank", "kind", x])["ratio"].mean(), table["null_isotropic"].min(), 1.0)
    )
    return figure
