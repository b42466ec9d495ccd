"""Tables 1 and 2 as a picture: loss, bytes and time of every method, side by side."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from subspace_lab.figures.style import COLOURS, Layout, styled_figure
from subspace_lab.figures.tables import AbsentError
from subspace_lab.studies.grass_paper.figures.names import shown

TITLE = "Every method"
CAPTION = (
    "Held-out loss of every method at its best learning rate (mean over seeds with Student's 95 % interval), "
    "bytes of the "
    "optimizer's tensors and time of training. The table beside it has train losses, peak memory, formulas, refresh "
    "shares and the gaps paired by seed, which are sharper than these intervals. Embeddings, head and norms are "
    "full-rank AdamW in all methods, and in a model this small most of the state."
)
_PANELS = {
    "eval_loss": ("held-out loss, mean and 95 % interval", 1.0),
    "state_bytes": ("state (MB)", 1e6),
    "wall_s": ("time (s)", 1.0),
}


@styled_figure(TITLE)
def draw(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    table = table.dropna(subset=["eval_loss"]).iloc[::-1].reset_index(drop=True)
    if table.empty:
        raise AbsentError("No cell came to its end.")
    figure = Figure(figsize=(layout.width, 0.9 + 0.21 * len(table)), layout="constrained")
    axes = figure.subplots(1, len(_PANELS), sharey=True, width_ratios=[2, 1, 1])
    for ax, (column, (label, unit)), colour in zip(axes, _PANELS.items(), COLOURS, strict=False):
        values = table[column].astype("float64") / unit
        if column == "eval_loss":
            half = (table["eval_high"] - table["eval_loss"]).where(table["eval_high"].notna())
            ax.errorbar(values, table.index, xerr=half, fmt="o", color=colour, elinewidth=1)
        else:
            ax.barh(table.index, values, color=colour, height=0.6)
        ax.set_xlabel(label if layout.columns > 2 else label.replace(", ", "\n").replace("and ", "and\n"))
        ax.grid(axis="y", visible=False)
    names = [f"{shown(row['method'])} ({row['seeds']})" for row in table.to_dict("records")]
    axes[0].set_yticks(table.index, names)
    axes[0].set_ylabel("method (seeds)")
    return figure
