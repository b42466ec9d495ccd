"""Fig. 1, the other half: the energy ratio over depth."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from subspace_lab.figures.style import Layout, styled_figure
from subspace_lab.studies.grass_paper.figures.energies import draw_energies

TITLE = "Energy in the core over depth"
CAPTION = (
    "The same ratios by block, means over the steps and seeds. A line that falls to the right says that deeper layers "
    "have less of their gradient in the core."
)


@styled_figure(TITLE)
def draw(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    return draw_energies(table, layout, x="depth", xlabel="block")
