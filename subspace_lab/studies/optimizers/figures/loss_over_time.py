"""Training loss of the methods over wall time."""

from __future__ import annotations

from matplotlib.figure import Figure

from subspace_lab.figures.style import Layout, styled_figure
from subspace_lab.studies.optimizers.figures.curves import draw_curves
from subspace_lab.studies.optimizers.figures.tables import Tables

TITLE = "Loss over wall time"
CAPTION = (
    "The same curves over the time that the training took, evaluations and checkpoints left out; the time is the mean "
    "over seeds as well. A method whose steps are slower ends further to the right. All cells were trained for as many "
    "steps with a learning rate that falls towards the last one, so that a curve in the middle is not what a "
    "shorter training would have reached. Times are those of the machine and of whatever ran beside a cell."
)


@styled_figure(TITLE)
def draw(tables: Tables, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    return draw_curves(tables, layout, x="wall_s", xlabel="time of training (s)")
