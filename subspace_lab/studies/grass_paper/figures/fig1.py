"""Fig. 1: the energy ratio over training, by kind of layer, at several ranks."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from subspace_lab.figures.style import Layout, styled_figure
from subspace_lab.studies.grass_paper.figures.energies import draw_energies

TITLE = "Energy in the core over training"
CAPTION = (
    "Share of the gradient's norm that its own top-r left singular space holds, by kind of layer (mean over blocks and "
    "seeds), in trainings by AdamW. Dashed: what the own space of Gaussian noise of that shape holds (one "
    "line per shape "
    "of matrix); dotted: what any fixed basis holds of isotropic noise. A ratio above 0.5 means nothing by itself: at "
    "r/m = 1/4 a fixed basis has it on noise. It misleads when everything above the lines is read as signal, since the "
    "noise of real gradients is not isotropic."
)


@styled_figure(TITLE)
def draw(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    return draw_energies(table, layout, x="step", xlabel="optimizer step")
