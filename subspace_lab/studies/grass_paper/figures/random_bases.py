"""Random bases of four kinds, with the limiter and without."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from subspace_lab.figures.panels import grid
from subspace_lab.figures.style import Layout, styled_figure
from subspace_lab.figures.tables import AbsentError
from subspace_lab.studies.grass_paper.figures.points import seed_points, seeds_of

TITLE = "Random bases of four kinds"
CAPTION = (
    "Held-out loss with bases that walk, that walk and jump at every fifth refresh, that jump (QR of a "
    "Gaussian matrix), "
    "and that are random coordinates, which take no QR; moments are transported and the bulk is recovered. Points are "
    "seeds, bars their means; the learning rate is tuned for each."
)
_PANELS = {"limited": "with the limiter", "free": "without it"}


@styled_figure(TITLE)
def draw(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    table = table.dropna(subset=["eval_loss"])
    if table.empty:
        raise AbsentError("No cell came to its end.")
    rules = list(dict.fromkeys(table["rule"]))
    shown = {name: label for name, label in _PANELS.items() if (table["recovery"] == name).any()}
    shape = Layout(layout.width, 2 if layout.columns > 2 else 1, layout.font_size, layout.titled)
    figure, axes = grid(
        shape, list(shown.values()), xlabel=f"rule ({seeds_of(table)})", ylabel="held-out loss", height=2.2
    )
    for name, label in shown.items():
        seed_points(axes[label], table[table["recovery"] == name], rules, by="rule", y="eval_loss")
    return figure
