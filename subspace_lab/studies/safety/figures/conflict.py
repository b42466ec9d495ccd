"""How often steps conflict with the safety gradient: before a defense, after it, and when they are applied."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from subspace_lab.figures.panels import FIXED
from subspace_lab.figures.style import COLOURS, MARKERS, Layout, picture
from subspace_lab.figures.tables import AbsentError
from subspace_lab.studies.safety.figures.rows import draw_marks, over_seeds, row_panels
from subspace_lab.studies.safety.reading import Tables, panel_titles, present

_MOMENTS = {"before": "user gradient", "after": "after the defense", "applied": "applied step"}
NULL = 0.5


@picture(
    "Conflict with the safety gradient",
    "The share of probed steps whose direction has a negative cosine with the gradient of the safety rows, so that "
    "the step raises their loss to first order: of the user gradient, of what the defense made of it, and of the "
    "step that the optimizer applied. Under the largest share of poison that leaves a task, at the learning rate of "
    "the headline; means over seeds with Student's 95 % interval, cut at 0 and 1. The dotted line is chance, 0.5. "
    "Momentum, the scales of Adam and a projection may bring back into a step what surgery removed from its "
    "gradient. The cosine is that of all parameters together, with the cross-entropy of one batch of safety rows, "
    "which is a sample: surgery against another loss of these rows, as the divergence that safegrad takes by "
    "default, leaves some conflict with this one.",
)
def conflict(tables: Tables, layout: Layout) -> Figure:
    """Draw a row per defense and three marks in it, a panel per task and optimizer."""
    rows = tables.step_shares
    rows = rows[rows["threat"] == tables.attack]
    if rows.empty:
        raise AbsentError("No step of a poisoned tuning was probed.")
    rows = rows.assign(title=panel_titles(rows), name=rows["defense"])
    panels = {str(title): present(tables.defenses, of, "defense") for title, of in rows.groupby("title", sort=False)}
    styles: dict[str, dict[str, Any]] = {
        name: {"color": COLOURS[place], "marker": MARKERS[place]} for place, name in enumerate(_MOMENTS)
    }
    key = [Line2D([], [], linestyle="", markersize=5, label=_MOMENTS[name], **style) for name, style in styles.items()]
    figure, axes = row_panels(layout, panels, xlabel="share of steps in conflict", key=key, row=0.26)
    for ax in axes.values():
        ax.set_xlim(-0.03, 1.03)
        ax.axvline(NULL, **FIXED)
    marks = over_seeds(rows.melt(["title", "name", "seed"], [*_MOMENTS], var_name="series"))
    draw_marks(axes, panels, marks.assign(low=marks["low"].clip(0, 1), high=marks["high"].clip(0, 1)), styles)
    return figure
