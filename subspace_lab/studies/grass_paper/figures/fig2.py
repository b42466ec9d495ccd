"""Fig. 2: top singular values of the derivative of the subspace error, over the gradient's squared norm."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from subspace_lab.figures.style import Layout, styled_figure
from subspace_lab.studies.grass_paper.figures.tangents import draw_tangents

TITLE = "Singular values of the subspace error's derivative"
CAPTION = (
    "The largest singular values, twenty at most, of −2 (I − SSᵀ) GGᵀS at the basis of the capture before, divided by "
    "‖G‖², by kind of layer at the beginning, in the middle and at the end of trainings by AdamW. The dashed line is "
    "what Gaussian noise gives at a basis chosen blindly: small values alone are no sign of a flat landscape. "
    "They grow "
    "with the age of the basis."
)


@styled_figure(TITLE)
def draw(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    return draw_tangents(table, layout, y="normalized", ylabel="σ / ‖G‖² at rank")
