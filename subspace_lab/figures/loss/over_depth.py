"""Figures of one quantity of the layers over depth, in panels by kind, a line per stage of training."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from subspace_lab.figures.axis import log_axis
from subspace_lab.figures.loss.tables import depth_axis, of_layers
from subspace_lab.figures.panels import FIXED, grid, stage_handles, stage_lines
from subspace_lab.figures.style import PAGE, Layout, styled_figure
from subspace_lab.figures.tables import stages
from subspace_lab.runs import Run


@dataclass(frozen=True)
class OverDepth:
    """A figure of the course of a column over depth; the figure has the attributes that a figure's file has.

    Attributes:
        TITLE: Its title.
        CAPTION: What it shows, how to read it, and when it misleads.
        table: Name of an analysis table.
        column: What is drawn, a column of that table.
        ylabel: What the column is.
        null: The column of its null reference, a dotted line; None for no reference.
        null_label: What the reference is.
    """

    TITLE: str
    CAPTION: str
    table: str
    column: str
    ylabel: str
    null: str | None = None
    null_label: str = ""

    def draw(self, run: Run, /, layout: Layout = PAGE) -> Figure:
        """Draw the figure; see CAPTION."""
        return styled_figure(self.TITLE)(self._draw)(run, layout)

    def _draw(self, run: Run, layout: Layout) -> Figure:
        panels, order = of_layers(run, self.table, self.column)
        if self.table == "hessian":  # a row per eigenvalue, the largest first
            panels = {panel: rows[rows["index"] == 0] for panel, rows in panels.items()}
        values = [value for rows in panels.values() for value in rows[self.column]]
        parts = stages({step for rows in panels.values() for step in rows["step"]})
        key = stage_handles(parts)
        if self.null is not None:
            key.append(Line2D([], [], label=self.null_label, **FIXED))
        figure, axes = grid(layout, list(panels), xlabel="depth (block index)", ylabel=self.ylabel, key=key)
        for panel, rows in panels.items():
            if self.table == "hessian" and min(values) > 0:
                log_axis(axes[panel], low=min(values), high=max(values))
            depth_axis(axes[panel], rows)
            stage_lines(axes[panel], rows, "depth", self.column, parts, order[panel])
            if self.null is not None:
                axes[panel].axhline(float(rows[self.null].mean()), **FIXED)
        return figure


SHARPNESS = OverDepth(
    "Sharpness of the layers over depth",
    (
        "The largest eigenvalue of the Hessian of the loss as a function of one layer alone, against the depth of "
        "the layer; means over the checkpoints of a stage, the later the stronger. "
        "A high layer is one in which a step of given length changes the gradient most; layers far below the others "
        "would take a larger learning rate. "
        "It misleads where layers differ in the scale of their weights: dividing a weight by two and multiplying the "
        "next one by two leaves the model as it is and multiplies the one value by four."
    ),
    "hessian",
    "eigenvalue",
    "largest eigenvalue",
)

DOMINANT_SHARE = OverDepth(
    "The gradient in the sharpest directions of the loss",
    (
        "The share χ = ‖Pg‖ / ‖g‖ of the layer's gradient in the space of the leading eigenvectors of its Hessian, "
        "against depth; means over the checkpoints of a stage, the later the stronger. "
        "The dotted line is what a random direction would have there. "
        "A gradient far above it points into few sharp directions; the rest of it, √(1 − χ²), lies where the loss is "
        "flat. "
        "It misleads when a large share is taken for progress: in sharp directions the gradient often just goes back "
        "and forth, and training without them goes on as before (arXiv 2405.16002)."
    ),
    "hessian_summary",
    "chi",
    "share χ of the norm",
    null="null_chi",
    null_label="random direction",
)

CORE_OVERLAP = OverDepth(
    "Is the gradient's core where the loss is sharp?",
    (
        "The share of the leading Hessian eigenvectors of a layer that lies in the core subspace of its gradient "
        "(the matrices whose columns are in the gradient's own top-r left singular space), against depth; means over "
        "the checkpoints of a stage, the later the stronger. "
        "At 1 the core holds all sharp directions, so that a low-rank optimizer sees them all; the dotted line, r/m, "
        "is what it would hold of random ones. "
        "It misleads as to size: the core has r·n dimensions and the dominant space a handful, so that the overlap "
        "the other way round is always small."
    ),
    "hessian_summary",
    "overlap",
    "overlap with the core",
    null="null_overlap",
    null_label="random directions",
)
