"""How large the recovered part is over training, by rule."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from subspace_lab.figures.axis import log_axis, step_axis
from subspace_lab.figures.panels import grid, line_style
from subspace_lab.figures.style import Layout, styled_figure
from subspace_lab.figures.tables import AbsentError

TITLE = "What is recovered from outside of the core"
CAPTION = (
    "‖L‖/‖G‖ of what recovery scaling (RS) recovers, L, over training, with its limiter and without it, and, where "
    "nothing is recovered, the share ‖G − SSᵀG‖/‖G‖ that is lost; one panel per rule of the basis S. Moments are "
    "transported, norms are over all matrices, means over seeds. L is in the units of Adam's direction and G is a "
    "gradient, so that the first two are no shares: they are far above 1 and grow as gradients get smaller. Compare "
    "rules and steps, not the level. The limiter only lets L grow by a factor per step: a basis that begins with a "
    "small residual keeps L small for long."
)
_LINES = {"limited": ("recovered, with limiter: ‖L‖/‖G‖", "recovery_share"),
          "free": ("recovered, no limiter: ‖L‖/‖G‖", "recovery_share"),
          "none": ("lost without RS: ‖G − SSᵀG‖/‖G‖", "bulk_share")}  # fmt: skip


@styled_figure(TITLE)
def draw(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    if table.empty:
        raise AbsentError("No cell came to its end.")
    rules = list(dict.fromkeys(table["rule"]))
    styles = {recovery: {**line_style(place), "marker": ""} for place, recovery in enumerate(_LINES)}
    key = [Line2D([], [], label=label, **styles[recovery]) for recovery, (label, _) in _LINES.items()]
    shape = Layout(layout.width, min(3, layout.columns), layout.font_size, layout.titled)
    figure, axes = grid(
        shape, rules, xlabel="optimizer step", ylabel="norm over that of the gradient", key=key, height=1.7
    )
    shown = pd.concat([table.loc[table["recovery"] == name, column] for name, (_, column) in _LINES.items()])
    shown = shown[shown > 0]
    for rule in rules:
        ax = axes[rule]
        log_axis(ax, low=float(shown.min()), high=float(shown.max()))
        step_axis(ax)
        for recovery, (_, column) in _LINES.items():
            rows = table[(table["rule"] == rule) & (table["recovery"] == recovery)]
            line = rows.groupby("step")[column].mean()
            ax.plot(line.index, line.where(line > 0), **styles[recovery])
    return figure
