"""Whether the top spaces of safety, user and harm gradients are the same ones, over training, with their null."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from subspace_lab.figures.axis import step_axis
from subspace_lab.figures.panels import FIXED, band
from subspace_lab.figures.style import COLOURS, DASHES, MARKERS, Layout, picture
from subspace_lab.figures.tables import AbsentError
from subspace_lab.studies.safety.figures.rows import point_panels
from subspace_lab.studies.safety.reading import Tables, panel_titles, present

_PAIRS = {
    "safety-user": "safety and user rows",
    "safety-harm": "safety and harmful rows",
    "user-harm": "user and harmful rows",
    "safety-again": "safety and other safety rows",
}


@picture(
    "Overlap of gradients",
    "How much of the smaller of two spaces lies in the larger one: those that hold 0.9 of the energy of the gradients "
    "of safety, user and harmful rows, before the first step, in the middle and after the last step of a tuning "
    "without a defense, under the largest share of poison that leaves a task, at the learning rate of the headline. "
    "Means over all trained matrices (of adapters their factors) and over seeds; the band reaches from the lowest to "
    "the highest seed. Each gradient is the mean over four batches. What two samples of safety rows share is the most "
    "that noise leaves. The dotted lines are the overlaps of random spaces of these dimensions, one for each pair in "
    "its colour: only what lies above them says anything.",
)
def gradient_overlaps(tables: Tables, layout: Layout) -> Figure:
    """Draw a line per pair and the null, a panel per task and optimizer."""
    rows = tables.gradients
    pairs = present([*_PAIRS], rows, "pair")
    if not pairs:
        raise AbsentError("No gradients of harmful rows were looked at in a poisoned tuning without a defense.")
    rows = rows.assign(title=panel_titles(rows), step=rows["step"].astype("int64"))
    styles: dict[str, dict[str, Any]] = {
        pair: {"color": COLOURS[place], "linestyle": DASHES[place], "marker": MARKERS[place], "markersize": 4}
        for place, pair in enumerate(pairs)
    }
    key = [Line2D([], [], label=_PAIRS[pair], **style) for pair, style in styles.items()]
    key.append(Line2D([], [], label="random spaces of their dimensions", **FIXED))
    titles = list(dict.fromkeys(rows["title"]))
    figure, axes = point_panels(layout, titles, key=key, xlabel="optimizer step", ylabel="overlap")
    for title, ax in axes.items():
        of = rows[rows["title"] == title]
        for pair, style in styles.items():
            seeds = of[of["pair"] == pair].groupby(["step", "seed"])["overlap"].mean().reset_index()
            if len(seeds):
                band(ax, seeds, "step", "overlap", style["color"])
                ax.lines[-1].set(**style)
        for pair, style in styles.items():
            null = of[of["pair"] == pair].groupby("step")["null_overlap"].mean()
            ax.plot(null.index, null, **{**FIXED, "color": style["color"]})
        ax.set_ylim(0, 1.02)
        step_axis(ax)
    return figure
