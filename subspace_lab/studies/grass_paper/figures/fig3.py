"""Fig. 3: rule x AO x RS, the losses at the best learning rate of each cell."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from subspace_lab.figures.labels import wrapped
from subspace_lab.figures.panels import grid
from subspace_lab.figures.style import Layout, styled_figure
from subspace_lab.figures.tables import AbsentError
from subspace_lab.studies.grass_paper.figures.points import note_handle, null_level, seed_handles, seed_points, seeds_of

TITLE = "Rule, moments and recovery"
CAPTION = (
    "Held-out loss of every rule for the basis with moments kept or transported (AO), without recovery "
    "scaling, with it "
    "(RS) and with it but without its limiter; the learning rate is tuned for each of the thirty cells. Points are "
    "seeds, bars their means. The dashed line is the mean of the basis that is never refreshed: a rule that "
    "is not below "
    "it has gained nothing by moving. Numbers under the points are the factor that the limiter applied to what was "
    "recovered, mean over steps and matrices: where it differs between rules, RS is not the same thing for them. "
    "Overlapping points are no proof of equality, since seeds pair up: the page has the paired differences."
)
_NOTES = (
    "AO: at a refresh the moments are transported to the new basis (no AO: kept as they are)",
    "RS: what the basis leaves of the gradient is recovered, scaled; a limiter bounds its growth (unlimited: none)",
    "×0.87: the factor that the limiter applied to what was recovered, mean over steps and matrices",
)
_COLUMNS = {"none": "no RS", "limited": "RS", "free": "RS unlimited"}
_ROWS = {"keep": "no AO", "transport": "AO"}


@styled_figure(TITLE)
def draw(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    table = table.dropna(subset=["eval_loss"])
    if table.empty:
        raise AbsentError("No cell came to its end.")
    panels = {
        (moments, recovery): f"{row}, {column}"
        for moments, row in _ROWS.items()
        for recovery, column in _COLUMNS.items()
    }
    rules = list(dict.fromkeys(table["rule"]))
    columns = min(3, layout.columns)
    shape = Layout(layout.width, columns, layout.font_size, layout.titled)
    figure, axes = grid(shape, list(panels.values()), xlabel="", ylabel="held-out loss", height=2.35)
    low, high = table["eval_loss"].min(), table["eval_loss"].max()
    room = 0.08 * (high - low) or 0.05
    for (moments, recovery), name in panels.items():
        ax, rows = axes[name], table[(table["moments"] == moments) & (table["recovery"] == recovery)]
        ax.set_ylim(low - 2.2 * room, high + room)
        seed_points(ax, rows, rules, by="rule", y="eval_loss")
        if (rows["rule"] == "frozen").any():
            null_level(ax, float(rows.loc[rows["rule"] == "frozen", "eval_loss"].mean()))
        if recovery == "limited":  # the factors that the key explains
            for place, rule in enumerate(rules):
                factor = rows.loc[rows["rule"] == rule, "limiter"].mean()
                if factor == factor:
                    ax.text(place, low - 1.9 * room, f"×{factor:.2f}", ha="center", fontsize=layout.font_size - 2)
    for ax in list(axes.values())[-columns:]:
        ax.set_xlabel(f"rule ({seeds_of(table)})")
    key = [
        *seed_handles("the rule that never moves the basis (frozen)"),
        *(note_handle(wrapped(note, layout)) for note in _NOTES),
    ]
    figure.legend(handles=key, loc="outside lower left")
    return figure
