"""How much of the user's gradients lies in the top spaces of the safety gradients, over training."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from subspace_lab.figures.axis import step_axis
from subspace_lab.figures.panels import FIXED, band
from subspace_lab.figures.style import COLOURS, DASHES, Layout, picture
from subspace_lab.figures.tables import AbsentError
from subspace_lab.studies.safety.figures.rows import point_panels
from subspace_lab.studies.safety.reading import Tables, panel_titles
from subspace_lab.studies.safety.stages import NONE


@picture(
    "User gradients in the safety space",
    "The share of the user gradient's energy that lies in the top spaces of the safety gradient, over all matrices, in "
    "tunings without a defense: the line is the mean over seeds, the band reaches from the lowest to the highest seed. "
    "The dotted line is what random spaces of these dimensions hold. Above it the two gradients use the same "
    "directions, whatever their signs: gradients of any two kinds of rows share the inputs that all rows have in "
    "common, so that a high share on clean rows is no sign of harm. What says something is poison beside clean.",
)
def safety_energy(tables: Tables, layout: Layout) -> Figure:
    """Draw a line per threat and the null, a panel per task and optimizer."""
    cells = tables.at_choice
    cells = cells[cells["defense"] == NONE][["cell", "policy", "task", "regime", "threat", "seed"]]
    rows = tables.steps.merge(cells, on="cell").dropna(subset=["energy"]) if len(cells) else cells
    if rows.empty:
        raise AbsentError("No step of a tuning without a defense was probed.")
    rows = rows.assign(title=panel_titles(rows))
    styles: dict[str, dict[str, Any]] = {
        threat: {"color": COLOURS[place % len(COLOURS)], "linestyle": DASHES[place % len(DASHES)]}
        for place, threat in enumerate(tables.threats)
    }
    key = [Line2D([], [], label=threat, **style) for threat, style in styles.items()]
    key.append(Line2D([], [], label="random spaces", **FIXED))
    titles = list(dict.fromkeys(rows["title"]))
    figure, axes = point_panels(layout, titles, key=key, xlabel="optimizer step", ylabel="share of energy")
    for title, ax in axes.items():
        of = rows[rows["title"] == title]
        for threat, style in styles.items():
            seeds = of[of["threat"] == threat].groupby(["step", "seed"])["energy"].mean().reset_index()
            if len(seeds):
                band(ax, seeds, "step", "energy", style["color"])
                ax.lines[-1].set_linestyle(style["linestyle"])
        null = of.groupby("step")["null_energy"].mean()
        ax.plot(null.index, null, **FIXED)
        ax.set_ylim(0, 1.02)
        step_axis(ax)
    return figure
