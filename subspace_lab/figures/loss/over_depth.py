"""A quantity of layers over depth, in panels by kind, a line per stage of training."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from subspace_lab.figures.loss.tables import depth_axis, of_layers
from subspace_lab.figures.panels import FIXED, grid, stage_handles, stage_lines
from subspace_lab.figures.style import Layout
from subspace_lab.figures.tables import stages
from subspace_lab.runs import Run


def draw_over_depth(
    run: Run, layout: Layout, table: str, column: str, ylabel: str, *, null: str | None = None, null_label: str = ""
) -> Figure:
    """Draw the course of a column over depth.

    Args:
        run: The run.
        layout: The size of the figure.
        table: The table.
        column: Its column.
        ylabel: What it is.
        null: The column of its null reference, a dotted line.
        null_label: What that is.

    Returns:
        The figure.
    """
    panels, order = of_layers(run, table, column)
    parts = stages({step for rows in panels.values() for step in rows["step"]})
    key = stage_handles(parts)
    if null is not None:
        key.append(Line2D([], [], label=null_label, **FIXED))
    figure, axes = grid(layout, list(panels), xlabel="depth (block index)", ylabel=ylabel, key=key)
    for panel, rows in panels.items():
        depth_axis(axes[panel], rows)
        stage_lines(axes[panel], rows, "depth", column, parts, order[panel])
        if null is not None:
            axes[panel].axhline(float(rows[null].mean()), **FIXED)
    return figure
