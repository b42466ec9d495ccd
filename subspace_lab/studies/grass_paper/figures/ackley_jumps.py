"""How far the steps on Ackley's function go, and whether the step after a refresh is a jump."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from subspace_lab.figures.axis import log_axis, step_axis
from subspace_lab.figures.panels import grid, line_style
from subspace_lab.figures.style import Layout, styled_figure
from subspace_lab.figures.tables import AbsentError
from subspace_lab.studies.grass_paper.figures.ackley import SHOWN, quartiles

TITLE = "Ackley's function: length of the steps"
CAPTION = (
    "Frobenius norm of each step: median over the starting points, the band holds the middle half of them; one panel "
    "per method, the lower line at scale factor 1, the upper one at 3. The basis is refreshed before steps 11, 21, "
    "...: a peak there is the abrupt jump that the published figure ascribes to the SVD. Lengths between methods "
    "compare little, since the recovered part of the gradient and its limiter set them; peaks within a line do."
)


@styled_figure(TITLE)
def draw(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    shown = table[table["scale"].isin(SHOWN) & (table["step"] > 0)]
    if shown.empty:
        raise AbsentError("Neither scale 1 nor scale 3 was measured.")
    methods = list(dict.fromkeys(shown["method"]))
    curves = {scale: quartiles(shown[shown["scale"] == scale], "move") for scale in sorted(set(shown["scale"]))}
    styles = {scale: {**line_style(place), "marker": ""} for place, scale in enumerate(curves)}
    figure, axes = grid(
        layout,
        methods,
        xlabel="step",
        ylabel="length of the step, ‖ΔW‖",
        key=[Line2D([], [], label=f"scale {scale:g}", **style) for scale, style in styles.items()],
    )
    everything = pd.concat(curves.values())
    low, high = float(everything["low"].clip(lower=1e-3).min()), float(everything["high"].max())
    for method, ax in axes.items():
        log_axis(ax, low=low, high=high)
        ax.set_ylim(low / 1.3, high * 1.3)
        step_axis(ax)
        for scale, curve in curves.items():
            rows, style = curve.loc[method], styles[scale]
            ax.fill_between(rows.index, rows["low"], rows["high"], color=style["color"], alpha=0.2, linewidth=0)
            ax.plot(rows.index, rows["middle"], **style)
    return figure
