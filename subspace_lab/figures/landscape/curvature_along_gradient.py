"""How much the loss bends along the core and along the bulk of the gradient."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from subspace_lab.figures.landscape.tables import depth_axis, of_layers
from subspace_lab.figures.panels import FIXED, grid, line_style
from subspace_lab.figures.style import Layout, drawn
from subspace_lab.runs import Run

TITLE = "How the loss bends along core and bulk of the gradient"
CAPTION = (
    "Rayleigh quotients dᵀHd / dᵀd of each layer's Hessian along the core part of its gradient (its own top-r left "
    "singular space) and along the bulk part, against depth, at the last checkpoint. "
    "A core high above the bulk says that the subspace holds the directions in which the loss is sharp, and that steps "
    "along the bulk could be longer at the same risk; a value below zero is a direction along which the slope grows. "
    "It misleads as a verdict on the bulk: a flat direction may still be the one that leads down, and part of the bulk "
    "is noise."
)
_PARTS = {"core": "rayleigh_core", "bulk": "rayleigh_bulk"}


@drawn(TITLE)
def draw(run: Run, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    panels, _ = of_layers(run, "hessian_summary", "rayleigh_core")
    last = max(int(rows["step"].max()) for rows in panels.values())
    styles = {part: line_style(place) for place, part in enumerate(_PARTS)}
    key = [Line2D([], [], label=f"along the {part}", **style) for part, style in styles.items()]
    figure, axes = grid(
        layout,
        list(panels),
        xlabel=f"depth (block index), at step {last}",
        ylabel="curvature dᵀHd / dᵀd",
        key=key,
    )
    for panel, rows in panels.items():
        depth_axis(axes[panel], rows)
        axes[panel].axhline(0, **FIXED)
        for part, column in _PARTS.items():
            line = rows[rows["step"] == last].groupby("depth")[column].mean()
            axes[panel].plot(line.index, line, **styles[part])
    return figure
