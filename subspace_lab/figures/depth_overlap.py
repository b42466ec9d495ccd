"""How much the subspaces of neighbouring blocks share."""

from __future__ import annotations

from matplotlib.figure import Figure

from subspace_lab.figures.axis import limits, step_axis
from subspace_lab.figures.labels import null_lines
from subspace_lab.figures.panels import grid, stage_handles, stage_lines
from subspace_lab.figures.style import Layout, styled_figure
from subspace_lab.figures.tables import AbsentError, at_reference_rank, by_panel, finite, load, positions, stages
from subspace_lab.runs import Run

TITLE = "Overlap of neighbouring blocks"
CAPTION = (
    "Overlap ‖S₁ᵀS₂‖² / r between the core of a layer and that of the layer of the same kind in the block before, "
    "on the side that lives in the residual stream; each line is the mean over a third of the captured steps. "
    "1 means the same subspace, the dotted line (r/m) is what two unrelated ones share on average. "
    "It misleads when it is read as layers learning the same thing: they read from and write into one stream, so a "
    "few directions that are strong in that stream are shared whatever the layers do."
)


@styled_figure(TITLE)
def draw(run: Run, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    angles, rank = at_reference_rank(run, load(run, "angles"))
    angles = angles[angles["comparison"] == "depth"]
    angles = finite(angles, "overlap", "There are no neighbouring blocks with layers of the same kind.")
    panels = dict(by_panel(angles))
    if all(rows["depth"].nunique() < 2 for rows in panels.values()):
        raise AbsentError("There are too few neighbouring blocks to show a course over depth.")
    parts, order = stages(set(angles["step"])), positions(run)
    figure, axes = grid(
        layout,
        list(panels),
        xlabel="depth (block index)",
        ylabel=f"overlap at rank {rank}",
        key=stage_handles(parts),
    )
    means = angles.groupby(["layer", "step"], observed=True)["overlap"].mean()
    low_high = limits(means, angles["null_overlap"].min(), angles["null_overlap"].max())
    for panel, rows in panels.items():
        axes[panel].set_ylim(low_high)
        step_axis(axes[panel])
        stage_lines(axes[panel], rows, "depth", "overlap", parts, order[panel])
        null_lines(axes[panel], [("unrelated", float(rows["null_overlap"].max()), 1)])
    return figure
