"""Training loss of the methods over steps."""

from __future__ import annotations

from matplotlib.figure import Figure

from subspace_lab.figures.style import Layout, styled_figure
from subspace_lab.studies.optimizers.figures.curves import draw_curves
from subspace_lab.studies.optimizers.figures.tables import Tables

TITLE = "Loss over steps"
CAPTION = (
    "The training loss of every method at its best learning rate, averaged over blocks of steps; the line is the mean "
    "over seeds, the band reaches from the lowest to the highest seed. All methods see the same batches and begin with "
    "the same weights, so that wiggles in common are the data's. The steep beginning is cut off. Overlapping bands are "
    "no proof that two methods are alike, since seeds pair up: the table has the paired differences."
)


@styled_figure(TITLE)
def draw(tables: Tables, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    return draw_curves(tables, layout, x="step", xlabel="optimizer step")
