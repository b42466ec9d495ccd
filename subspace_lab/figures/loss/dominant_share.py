"""The share of the gradient in the dominant Hessian space, against depth."""

from __future__ import annotations

from matplotlib.figure import Figure

from subspace_lab.figures.loss.over_depth import draw_over_depth
from subspace_lab.figures.style import Layout, styled_figure
from subspace_lab.runs import Run

TITLE = "The gradient in the sharpest directions of the loss"
CAPTION = (
    "The share χ = ‖Pg‖ / ‖g‖ of the layer's gradient in the space of the leading eigenvectors of its Hessian, against "
    "depth; means over the checkpoints of a stage, the later the stronger. "
    "The dotted line is what a random direction would have there. A gradient far above it points into few sharp "
    "directions; the rest of it, √(1 − χ²), lies where the loss is flat. "
    "It misleads when a large share is taken for progress: in sharp directions the gradient often just goes back and "
    "forth, and training without them goes on as before (arXiv 2405.16002)."
)


@styled_figure(TITLE)
def draw(run: Run, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    return draw_over_depth(
        run,
        layout,
        "hessian_summary",
        "chi",
        "share χ of the norm",
        null="null_chi",
        null_label="random direction",
    )
