"""The overlap of the gradient's core subspace with the dominant Hessian space, against depth."""

from __future__ import annotations

from matplotlib.figure import Figure

from subspace_lab.figures.loss.over_depth import draw_over_depth
from subspace_lab.figures.style import Layout, styled_figure
from subspace_lab.runs import Run

TITLE = "Is the gradient's core where the loss is sharp?"
CAPTION = (
    "The share of the leading Hessian eigenvectors of a layer that lies in the core subspace of its gradient (the "
    "matrices whose columns are in the gradient's own top-r left singular space), against depth; means over the "
    "checkpoints of a stage, the later the stronger. "
    "At 1 the core holds all sharp directions, so that a low-rank optimizer sees them all; the dotted line, r/m, is "
    "what it would hold of random ones. "
    "It misleads as to size: the core has r·n dimensions and the dominant space a handful, so that the overlap the "
    "other way round is always small."
)


@styled_figure(TITLE)
def draw(run: Run, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    return draw_over_depth(
        run,
        layout,
        "hessian_summary",
        "overlap",
        "overlap with the core",
        null="null_overlap",
        null_label="random directions",
    )
