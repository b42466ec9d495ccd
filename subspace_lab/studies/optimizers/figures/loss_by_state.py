"""Held-out loss of the methods against the bytes of their states: a Pareto picture."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from subspace_lab.figures.axis import log_axis
from subspace_lab.figures.labels import shortened
from subspace_lab.figures.panels import line_style
from subspace_lab.figures.style import INK, NULL_DASHES, Layout, styled_figure
from subspace_lab.figures.tables import AbsentError
from subspace_lab.studies.optimizers.figures.tables import Tables

TITLE = "Loss by optimizer state"
CAPTION = (
    "The loss on held-out text of every method at its best learning rate (mean over seeds, the bar is one standard "
    "deviation to either side) against the bytes of its optimizer's tensors. Lower and further left is better; the "
    "dashed line joins the methods that no other one beats in both. Where bars overlap, it may run otherwise with "
    "other seeds. Embeddings, head and norms are full-rank AdamW in all methods: in a small model they are most of the "
    "state, which moves all points to the right."
)

_HEIGHT = 3.4  # inches


@styled_figure(TITLE)
def draw(tables: Tables, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    table = tables.table.dropna(subset=["eval_loss", "state_bytes"])
    if table.empty:
        raise AbsentError("No cell came to its end.")
    table = table.assign(megabytes=table["state_bytes"] / 1e6)
    places = tables.places()
    rows = -(-len(table) // 2) if layout.columns <= 2 else 0  # of names below the axes
    figure = Figure(figsize=(layout.width, _HEIGHT + 0.15 * rows), layout="constrained")
    ax = figure.subplots()
    low, high = float(table["megabytes"].min()) / 1.25, float(table["megabytes"].max()) * 1.25
    log_axis(ax, x=True, low=low, high=high)
    ax.set_xlim(low, high)
    front = pareto_front(table)
    ax.plot(front["megabytes"], front["eval_loss"], color=INK, linewidth=0.9, linestyle=NULL_DASHES[0], zorder=1.5)
    for row in table.to_dict("records"):  # the lowest loss comes first
        spread = None if pd.isna(row["eval_sd"]) else row["eval_sd"]
        style = {**line_style(places[row["method"]]), "linestyle": "", "label": shortened(row["method"], 24)}
        ax.errorbar(row["megabytes"], row["eval_loss"], spread, **style, markersize=5)
    if rows:
        figure.legend(loc="outside lower left", ncols=2, fontsize=layout.font_size - 2)
    else:
        figure.legend(loc="outside right upper")
    ax.set(xlabel="optimizer state (MB)", ylabel="held-out loss")
    return figure


def pareto_front(table: pd.DataFrame) -> pd.DataFrame:
    """The methods that no other one beats in state and loss, by state.

    States that agree to three digits are equal: recovery adds one number to a matrix, which decides nothing.

    Args:
        table: With the columns ``state_bytes`` and ``eval_loss``.

    Returns:
        Its rows on the front.
    """
    size = table["state_bytes"].map(lambda value: float(f"{value:.3g}"))
    ordered = table.assign(size=size).sort_values(["size", "eval_loss"]).drop(columns="size")
    before = ordered["eval_loss"].cummin().shift()
    return ordered[before.isna() | (ordered["eval_loss"] < before)]
