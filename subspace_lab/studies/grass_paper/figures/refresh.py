"""Share of the time of a training that goes into subspaces."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from subspace_lab.figures.style import COLOURS, Layout, styled_figure
from subspace_lab.figures.tables import AbsentError
from subspace_lab.studies.grass_paper.figures.names import shown

TITLE = "Time that goes into subspaces"
CAPTION = (
    "Share of the time of training spent on choosing subspaces, drawing random matrices and carrying moments over, at "
    "the profile's interval; bars are means over seeds, points single seeds. The share depends on size, interval and "
    "machine: decompositions grow with the cube of the width, where a step grows with its square times the tokens."
)


@styled_figure(TITLE)
def draw(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    if table.empty:
        raise AbsentError("No cell came to its end.")
    means = table.groupby("method")["refresh_share"].mean().sort_values()
    figure = Figure(figsize=(layout.width, 0.9 + 0.21 * len(means)), layout="constrained")
    ax = figure.subplots()
    ax.barh(range(len(means)), 100 * means, color=COLOURS[0], height=0.6, alpha=0.75)
    for place, method in enumerate(means.index):
        values = 100 * table.loc[table["method"] == method, "refresh_share"]
        ax.plot(values, [place] * len(values), "o", color=COLOURS[1], markersize=3)
    ax.set_yticks(range(len(means)), [shown(str(method)) for method in means.index])
    seeds = table["seed"].nunique()
    ax.set_xlabel(f"share of the time (%), {seeds} seed{'s' * (seeds != 1)}")
    ax.grid(axis="y", visible=False)
    return figure
