"""Held-out loss of the methods against the bytes of their states: a Pareto picture."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from subspace_lab.figures.axis import log_axis
from subspace_lab.figures.comparison.tables import Tables
from subspace_lab.figures.labels import shortened
from subspace_lab.figures.panels import line_style
from subspace_lab.figures.style import INK, NULL_DASHES, PAPER, Layout, drawn
from subspace_lab.figures.tables import AbsentError

TITLE = "Loss by optimizer state"
CAPTION = (
    "The loss on held-out text of every method at its best learning rate (mean over seeds, the bar is one standard "
    "deviation to either side) against the bytes of its optimizer's tensors. Lower and further left is better; the "
    "dashed line joins the methods that no other one beats in both. Where bars overlap, it may run otherwise with "
    "other seeds. Embeddings, head and norms are full-rank AdamW in all methods: in a small model they are most of the "
    "state, which moves all points to the right."
)

_HEIGHT = 3.4  # inches


@drawn(TITLE)
def draw(tables: Tables, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    table = tables.table.dropna(subset=["eval_loss", "state_bytes"])
    if table.empty:
        raise AbsentError("No cell came to its end.")
    table = table.assign(megabytes=table["state_bytes"] / 1e6)
    places = tables.places()
    figure = Figure(figsize=(layout.width, _HEIGHT), layout="constrained")
    ax = figure.subplots()
    low, high = float(table["megabytes"].min()) / 1.25, float(table["megabytes"].max()) * 1.6
    log_axis(ax, x=True, low=low, high=high)
    ax.set_xlim(low, high)
    front = pareto_front(table)
    ax.plot(front["megabytes"], front["eval_loss"], color=INK, linewidth=0.9, linestyle=NULL_DASHES[0], zorder=1.5)
    for row in table.to_dict("records"):
        style = line_style(places[row["method"]])
        spread = None if pd.isna(row["eval_sd"]) else row["eval_sd"]
        ax.errorbar(
            row["megabytes"], row["eval_loss"], spread, color=style["color"], marker=style["marker"], markersize=5
        )
    ax.margins(y=0.12)
    _name(ax, table, layout)
    ax.set(xlabel="optimizer state (MB)", ylabel="held-out loss")
    return figure


def pareto_front(table: pd.DataFrame) -> pd.DataFrame:
    """The methods that no other one beats in state and loss, by state.

    Args:
        table: With the columns ``state_bytes`` and ``eval_loss``.

    Returns:
        Its rows on the front.
    """
    ordered = table.sort_values(["state_bytes", "eval_loss"])
    before = ordered["eval_loss"].cummin().shift()
    return ordered[before.isna() | (ordered["eval_loss"] < before)]


def _name(ax: Axes, table: pd.DataFrame, layout: Layout) -> None:
    """Names beside the points, on the inner side, and moved up where they would overlap with one that is near."""
    low, high = ax.get_ylim()
    need = 1.3 * (layout.font_size - 1) / (0.75 * 72 * _HEIGHT) * (high - low)
    middle = math.prod(ax.get_xlim()) ** 0.5
    taken: dict[bool, list[float]] = {False: [], True: []}
    for row in table.sort_values("eval_loss").to_dict("records"):
        is_right, y = row["megabytes"] > middle, float(row["eval_loss"])
        y = max([y, *(other + need for other in taken[is_right][-1:])])
        taken[is_right].append(y)
        ax.annotate(
            shortened(row["method"], round(layout.width * 4)),
            (row["megabytes"], y),
            xytext=(-6 if is_right else 6, 0),
            textcoords="offset points",
            ha="right" if is_right else "left",
            va="center",
            bbox={"facecolor": PAPER, "alpha": 0.75, "linewidth": 0, "pad": 0.6},
        )
    ax.set_ylim(low, max(high, *(y + need for side in taken.values() for y in side)))
