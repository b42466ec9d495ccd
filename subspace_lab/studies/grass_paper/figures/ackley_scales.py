"""Where each rule ends on Ackley's function, by scale factor: how much of a comparison is the learning rate."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from subspace_lab.figures.axis import log_axis
from subspace_lab.figures.panels import line_style
from subspace_lab.figures.style import Layout, styled_figure

TITLE = "Ackley's function: the value reached by scale"
CAPTION = (
    "Value after the last step against the scale factor, which multiplies the learning rate: median over the starting "
    "points, the bars hold the middle half of them. A method is as good as its lowest point; a comparison at one "
    "scale is a vertical cut, and the order of methods in it may be that of their step lengths. Values above 20 are "
    "those of the plain far out, onto which steps that are too long lead."
)


@styled_figure(TITLE)
def draw(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    last = table[table["step"] == table["step"].max()]
    summary = last.groupby(["method", "scale"])["value"].quantile(np.array([0.25, 0.5, 0.75])).unstack()
    scales = sorted(set(last["scale"]))
    figure = Figure(figsize=(layout.width, 3.2), layout="constrained")
    ax = figure.subplots()
    ax.set_ylim(0, 1.05 * float(summary[0.75].max()))
    log_axis(ax, x=True, low=scales[0], high=scales[-1])
    ax.xaxis.set_major_locator(FixedLocator(scales))
    methods = list(dict.fromkeys(table["method"]))
    for place, method in enumerate(methods):
        rows, style = summary.loc[method], line_style(place)
        aside = rows.index * 1.2 ** (place / max(1, len(methods) - 1) - 0.5)  # so that bars do not cover one another
        bars = (rows[0.5] - rows[0.25], rows[0.75] - rows[0.5])
        ax.errorbar(aside, rows[0.5], bars, **style, elinewidth=0.8, label=method)
    ax.set(xlabel="scale factor", ylabel="value after the last step")
    if layout.columns <= 2:
        figure.legend(loc="outside lower left", ncols=2)
    else:
        figure.legend(loc="outside right upper")
    return figure
