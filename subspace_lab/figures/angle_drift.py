"""How far the subspace turns from capture to capture, and away from where it began."""

from __future__ import annotations

from matplotlib.figure import Figure

from subspace_lab.figures.axis import limits, step_axis
from subspace_lab.figures.labels import null_lines
from subspace_lab.figures.panels import grid, kind_height, kind_lines
from subspace_lab.figures.style import Layout, styled_figure
from subspace_lab.figures.tables import at_reference_rank, finite, load, positions
from subspace_lab.runs import Run

TITLE = "How the subspace drifts"
CAPTION = (
    "Overlap ‖S₁ᵀS₂‖² / r, the mean squared cosine of the principal angles, of the core with that of the capture "
    "before and with that of the first capture; means over the layers of a kind. "
    "1 means that the subspace has not moved, the dotted line (r/m) is what two unrelated subspaces share on average; "
    "a line that settles above it has directions that persist; where a gradient has fewer than r directions only "
    "those are compared, and unrelated ones share less. "
    "It misleads as a speed: part of the change between two captures is noise of the batches, which would be there "
    "if training stood still."
)
_COMPARED = {"previous": "with the capture before", "first": "with the first capture"}


@styled_figure(TITLE)
def draw(run: Run, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    angles, rank = at_reference_rank(run, load(run, "angles"))
    angles = angles[angles["comparison"].isin(_COMPARED)]
    angles = finite(
        angles, "overlap", "There is only one captured step, so there is no drift over training to measure."
    )
    names = [name for name in _COMPARED if (angles["comparison"] == name).any()]
    figure, axes = grid(
        layout.at_most(layout.columns // 2),
        [_COMPARED[name] for name in names],
        xlabel="optimizer step",
        ylabel=f"overlap at rank {rank}",
        height=kind_height(angles["panel"].nunique()),
    )
    means = angles.groupby(["comparison", "panel", "step"], observed=True)["overlap"].mean()
    nulls = sorted(set(angles.groupby("panel", observed=True)["null_overlap"].max()))
    for name in names:
        ax = axes[_COMPARED[name]]
        ax.set_ylim(limits(means, *nulls))
        step_axis(ax)
        kind_lines(ax, angles[angles["comparison"] == name], "step", "overlap", positions(run), layout)
        null_lines(ax, [("unrelated", null, 1) for null in nulls])
    return figure
