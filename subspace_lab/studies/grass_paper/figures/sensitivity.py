"""GrassWalk with one setting changed at a time."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from subspace_lab.figures.style import Layout, styled_figure
from subspace_lab.figures.tables import AbsentError
from subspace_lab.studies.grass_paper.figures.points import null_level, seed_handles, seed_points, seeds_of

TITLE = "Sensitivity of GrassWalk"
CAPTION = (
    "Held-out loss of GrassWalk with one setting changed and the learning rate tuned again. Points are seeds, bars "
    "their means; the dashed line is the mean at the usual settings. A higher rank costs state, a shorter interval "
    "costs time. The scale multiplies the step of the matrices and not that of embeddings, head and norms: where it "
    "matters, so does how the two are balanced, which methods differ in by their defaults."
)
_LABELS = {
    "rank": "rank r",
    "update_interval": "interval T (steps)",
    "walk_step": "walk step (rad)",
    "zeta": "limiter ζ",
    "scale": "scale of the matrices' step",
}


@styled_figure(TITLE)
def draw(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    table = table.dropna(subset=["eval_loss"])
    if table.empty:
        raise AbsentError("No cell came to its end.")
    table = table.assign(shown=[("none" if v != v else f"{v:g}") for v in table["value"]])
    columns = 2 if layout.columns > 2 else 1
    rows_of_panels = -(-len(_LABELS) // columns)
    figure = Figure(figsize=(layout.width, 0.6 + 1.9 * rows_of_panels), layout="constrained")
    axes = figure.subplots(rows_of_panels, columns, sharey=True, squeeze=False)
    for ax in axes.flat[len(_LABELS) :]:
        ax.remove()
    for ax, (setting, label) in zip(axes.flat, _LABELS.items(), strict=False):
        rows = table[table["setting"] == setting]
        names = list(dict.fromkeys(rows.sort_values("value", na_position="last")["shown"]))
        seed_points(ax, rows, names, by="shown", y="eval_loss")
        if rows["usual"].any():
            null_level(ax, float(rows.loc[rows["usual"], "eval_loss"].mean()))
        ax.set_xlabel(label)
    figure.legend(
        handles=seed_handles("the usual settings, the same in all panels"),
        loc="outside lower left",
        ncols=3 if layout.columns > 2 else 1,
    )
    figure.supylabel(f"held-out loss ({seeds_of(table)})")
    return figure
