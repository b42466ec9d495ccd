"""How much the loss bends along the core and along the bulk of the gradient."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from subspace_lab.figures.axis import log_axis
from subspace_lab.figures.loss.tables import depth_axis, of_layers
from subspace_lab.figures.panels import grid, line_style
from subspace_lab.figures.style import PAPER, Layout, styled_figure
from subspace_lab.figures.tables import AbsentError
from subspace_lab.runs import Run

TITLE = "How the loss bends along core and bulk of the gradient"
CAPTION = (
    "Rayleigh quotients dᵀHd / dᵀd of each layer's Hessian along the core part of its gradient (its own top-r left "
    "singular space) and along the bulk part, against depth, at the last checkpoint; hollow where negative. "
    "A core high above the bulk says that the subspace holds the directions in which the loss is sharp, and that steps "
    "along the bulk could be longer at the same risk; at a negative one the loss bends down, and slopes grow. "
    "It misleads as a verdict on the bulk: a flat direction may still be the one that leads down, and part of the bulk "
    "is noise."
)
COLUMNS = {"core": "rayleigh_core", "bulk": "rayleigh_bulk"}


@styled_figure(TITLE)
def draw(run: Run, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    panels, _ = of_layers(run, "hessian_summary", "rayleigh_core")
    last = max(int(rows["step"].max()) for rows in panels.values())
    styles = {part: line_style(place) for place, part in enumerate(COLUMNS)}
    key = [Line2D([], [], label=f"along the {part}", **style) for part, style in styles.items()]
    sizes = pd.concat([
        rows.loc[rows["step"] == last, column].abs() for rows in panels.values() for column in COLUMNS.values()
    ])
    sizes = sizes[sizes > 0]
    if sizes.empty:
        raise AbsentError("The loss does not bend along any gradient.")
    figure, axes = grid(
        layout,
        list(panels),
        xlabel=f"depth (block index), at step {last}",
        ylabel="|dᵀHd / dᵀd|",
        key=key,
    )
    for panel, rows in panels.items():
        depth_axis(axes[panel], rows)
        log_axis(axes[panel], low=float(sizes.min()), high=float(sizes.max()))
        for part, column in COLUMNS.items():
            line = rows[rows["step"] == last].groupby("depth")[column].mean()
            axes[panel].plot(line.index, line.abs(), **styles[part])
            down = line[line < 0].abs()
            axes[panel].plot(down.index, down, **{**styles[part], "linestyle": ""}, markerfacecolor=PAPER)
    return figure
