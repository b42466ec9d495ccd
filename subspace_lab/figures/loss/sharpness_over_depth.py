"""The largest Hessian eigenvalue of every layer against its depth."""

from __future__ import annotations

from matplotlib.figure import Figure

from subspace_lab.figures.axis import log_axis
from subspace_lab.figures.loss.tables import depth_axis, of_layers
from subspace_lab.figures.panels import grid, stage_handles, stage_lines
from subspace_lab.figures.style import Layout, styled_figure
from subspace_lab.figures.tables import stages
from subspace_lab.runs import Run

TITLE = "Sharpness of the layers over depth"
CAPTION = (
    "The largest eigenvalue of the Hessian of the loss as a function of one layer alone, against the depth of the "
    "layer; means over the checkpoints of a stage, the later the stronger. "
    "A high layer is one in which a step of given length changes the gradient most; layers far below the others would "
    "take a larger learning rate. "
    "It misleads where layers differ in the scale of their weights: dividing a weight by two and multiplying the next "
    "one by two leaves the model as it is and multiplies the one value by four."
)


@styled_figure(TITLE)
def draw(run: Run, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    panels, order = of_layers(run, "hessian", "eigenvalue")
    top = {panel: rows[rows["index"] == 0] for panel, rows in panels.items()}
    values = [value for rows in top.values() for value in rows["eigenvalue"]]
    parts = stages({step for rows in top.values() for step in rows["step"]})
    figure, axes = grid(
        layout,
        list(top),
        xlabel="depth (block index)",
        ylabel="largest eigenvalue",
        key=stage_handles(parts),
    )
    for panel, rows in top.items():
        if min(values) > 0:
            log_axis(axes[panel], low=min(values), high=max(values))
        depth_axis(axes[panel], rows)
        stage_lines(axes[panel], rows, "depth", "eigenvalue", parts, order[panel])
    return figure
