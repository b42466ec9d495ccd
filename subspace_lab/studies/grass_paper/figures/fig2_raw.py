"""Fig. 2 as it was published: the singular values as they are."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from subspace_lab.figures.style import Layout, styled_figure
from subspace_lab.studies.grass_paper.figures.tangents import draw_tangents

TITLE = "Singular values of the subspace error's derivative, raw"
CAPTION = (
    "The same values without the division. They mostly follow the squared norm of the gradient, which differs between "
    "kinds of layers and falls over training: that they are tiny says that gradients are small."
)


@styled_figure(TITLE)
def draw(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    return draw_tangents(table, layout, y="singular_value", ylabel="σ at rank")
