"""Energy in the core over training, one panel per layer kind, with both null references."""

from __future__ import annotations

from matplotlib.figure import Figure

from subspace_lab.figures.axis import limits, step_axis
from subspace_lab.figures.labels import null_lines
from subspace_lab.figures.panels import band, grid
from subspace_lab.figures.style import COLOURS, Layout, styled_figure
from subspace_lab.figures.tables import at_telling_rank, by_panel, load, positions
from subspace_lab.runs import Run

TITLE = "Energy in the core over training"
CAPTION = (
    "Share of each gradient's norm that its own top-r left singular space holds, ‖SᵀG‖ / ‖G‖: "
    "the line is the mean over the layers of a kind, the band runs from the lowest to the highest. The rank is a "
    "quarter of m, or a smaller one where that holds nearly everything (the axis names it). "
    "Compare with the dashed line, what the same construction finds in independent Gaussian noise of that shape, "
    "rather than with zero; the dotted line, √(r/m), is what any fixed basis holds of isotropic noise. "
    "It misleads when everything above the lines is read as signal: they rule out isotropic noise only, and the noise "
    "of real gradients is not isotropic."
)


@styled_figure(TITLE)
def draw(run: Run, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    energy, rank = at_telling_rank(run, load(run, "energy"))
    own = energy[energy["basis"] == "own"]
    panels = dict(by_panel(own))
    figure, axes = grid(layout, list(panels), xlabel="optimizer step", ylabel=f"‖SᵀG‖ / ‖G‖ at rank {rank}")
    nulls = own[["null_isotropic", "null_noise"]] ** 0.5
    low_high = limits(own["ratio"], nulls.min().min(), nulls.max().max())
    colours = positions(run)
    for panel, rows in panels.items():
        axes[panel].set_ylim(low_high)
        step_axis(axes[panel])
        band(axes[panel], rows, "step", "ratio", COLOURS[colours[panel] % len(COLOURS)])
        noise, isotropic = rows[["null_noise", "null_isotropic"]].iloc[0] ** 0.5
        null_lines(axes[panel], [("Gaussian noise", noise, 0), ("fixed basis", isotropic, 1)])
    return figure
