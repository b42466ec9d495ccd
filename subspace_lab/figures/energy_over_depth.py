"""Energy in the core against depth, early, in the middle and late in training."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from subspace_lab.figures.axis import limits, step_axis
from subspace_lab.figures.labels import null_lines
from subspace_lab.figures.panels import grid, stage_handles, stage_lines
from subspace_lab.figures.style import Layout, styled_figure
from subspace_lab.figures.tables import AbsentError, at_telling_rank, by_panel, load, positions, stages
from subspace_lab.runs import Run

TITLE = "Energy in the core over depth"
CAPTION = (
    "The ratio ‖SᵀG‖ / ‖G‖ at the same rank against the depth of the layer; each line is the mean over a third of "
    "the captured steps, the later the stronger. "
    "A line that falls to the right says that deeper layers spread their gradient over more directions; lines that "
    "drop from pale to strong say that all of them do so as training goes on. "
    "It misleads at the ends: the first and the last block often differ from the rest for reasons of their own, so "
    "look at whether the middle blocks follow, and compare with the dashed null of that shape, not with zero."
)


@styled_figure(TITLE)
def draw(run: Run, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    energy, rank = at_telling_rank(run, load(run, "energy"))
    own = energy[(energy["basis"] == "own") & (energy["depth"] >= 0)]
    if own.empty:
        raise AbsentError("No layer belongs to a numbered block, so there is no depth to compare over.")
    panels = {panel: rows for panel, rows in by_panel(own) if rows["depth"].nunique() > 1}
    if not panels:
        raise AbsentError("Every kind of layer occurs at one depth only, so there is no depth to compare over.")
    own = pd.concat(panels.values())
    parts, order = stages(set(own["step"])), positions(run)
    figure, axes = grid(
        layout,
        list(panels),
        xlabel="depth (block index)",
        ylabel=f"‖SᵀG‖ / ‖G‖ at rank {rank}",
        key=stage_handles(parts),
    )
    means = own.groupby(["layer", "step"], observed=True)["ratio"].mean()
    low_high = limits(means, own["null_isotropic"].min() ** 0.5, own["null_noise"].max() ** 0.5)
    for panel, rows in panels.items():
        axes[panel].set_ylim(low_high)
        step_axis(axes[panel])
        stage_lines(axes[panel], rows, "depth", "ratio", parts, order[panel])
        noise, isotropic = rows[["null_noise", "null_isotropic"]].iloc[0] ** 0.5
        null_lines(axes[panel], [("Gaussian noise", noise, 0), ("fixed basis", isotropic, 1)])
    return figure
