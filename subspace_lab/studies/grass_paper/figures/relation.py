"""Energy and flatness of a method's gradients against the loss that it reaches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from subspace_lab.figures.axis import log_axis
from subspace_lab.figures.style import COLOURS, INK, MARKERS, Layout, styled_figure
from subspace_lab.figures.tables import AbsentError
from subspace_lab.studies.grass_paper.figures.names import shown

TITLE = "Energy, flatness and loss"
CAPTION = (
    "For every method, from one captured run at its best learning rate: the mean energy ratio of its gradients at the "
    "methods' rank, how even the derivative's singular values are (20th over 1st) and how large the 1st is "
    "(over ‖G‖²), "
    "all in the second half of training, against its mean held-out loss. ρ is Spearman's correlation over "
    "methods with its "
    "p value. A dozen points that share much else prove no cause: a lower loss changes gradients, too."
)
_PANELS = {"energy": "‖SᵀG‖ / ‖G‖", "flatness": "evenness, σ₂₀ / σ₁", "steepness": "σ₁ / ‖G‖²"}


@styled_figure(TITLE)
def draw(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    if table.empty:
        raise AbsentError("No captured run came to its end.")
    wide = layout.columns > 2
    key_columns, height = (5, 2.7) if wide else (2, 6.5)
    rows_of_key = -(-len(table) // key_columns)
    figure = Figure(figsize=(layout.width, height + 0.2 * rows_of_key), layout="constrained")
    axes = figure.subplots(1 if wide else len(_PANELS), len(_PANELS) if wide else 1, sharey=True)
    key = []
    for ax, (column, label) in zip(axes, _PANELS.items(), strict=True):
        for place, row in enumerate(table.to_dict("records")):
            style = _style(place)
            ax.plot(row[column], row["eval_loss"], **style)
            if column == "energy":
                key.append(Line2D([], [], label=shown(row["method"]), **style))
        if table[column].min() > 0 and table[column].max() > 10 * table[column].min():
            log_axis(ax, x=True, low=float(table[column].min()), high=float(table[column].max()))
        rho, p = table[f"rho_{column}"].iloc[0], table[f"p_{column}"].iloc[0]
        chance = "p < 0.01" if p < 0.01 else f"p = {p:.2f}"
        ax.set_title("" if rho != rho else f"ρ = {rho:+.2f} ({chance})")
        ax.set_xlabel(label)
    axes[0].set_ylabel("held-out loss")
    figure.legend(handles=key, loc="outside lower center", ncols=key_columns)
    return figure


def _style(place: int) -> dict[str, Any]:
    """Hollow and of two sizes, so that no point hides another; a second round of colours is darker than the first."""
    colour = np.array(to_rgb(COLOURS[place % len(COLOURS)]))
    if place >= len(COLOURS):
        colour = (colour + np.array(to_rgb(INK))) / 2
    return {
        "color": tuple(colour.tolist()),
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": "",
        "markersize": 7.5 if place % 2 == 0 else 4.5,
        "zorder": 3 + place % 2,
        "markerfacecolor": "none",
        "markeredgewidth": 1.3,
    }
