"""What most papers report beside what happened: attack success by keywords against the true one."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from subspace_lab.figures.panels import line_style
from subspace_lab.figures.style import INK, NULL_DASHES, Layout, picture
from subspace_lab.figures.tables import AbsentError
from subspace_lab.studies.safety.figures.rows import point_panels
from subspace_lab.studies.safety.reading import Tables


@picture(
    "Attack success by keywords",
    "Each point is a tuned model: the share of restricted prompts whose reply does not begin like a refusal, against "
    "the share that it answers. On the diagonal both are the same. A point above it is a model that neither refuses "
    "nor answers: a tuning may teach it to reply to everything in the way of its task, which counts as an attack by "
    "keywords and harms nobody. Beyond the policies of this study a judge of answers is itself uncertain.",
)
def keywords(tables: Tables, layout: Layout) -> Figure:
    """Draw a point per model, a panel per threat."""
    rows = tables.tuned.dropna(subset=["asr", "keyword_asr"]) if len(tables.tuned) else pd.DataFrame()
    if rows.empty:
        raise AbsentError("Attack success is not measured both by keywords and by answers.")
    styles = {name: {**line_style(place), "linestyle": ""} for place, name in enumerate(tables.regimes)}
    key = [Line2D([], [], markersize=4.5, label=name, **style) for name, style in styles.items()]
    threats = [name for name in tables.threats if name in set(rows["threat"])]
    figure, axes = point_panels(
        layout, threats, key=key, xlabel="attack success: answered", ylabel="by keywords: not refused"
    )
    for threat, ax in axes.items():
        ax.plot([0, 1], [0, 1], color=INK, linewidth=0.9, linestyle=NULL_DASHES[0], zorder=1.5)
        for regime, points in rows[rows["threat"] == threat].groupby("regime", sort=False):
            ax.plot(
                points["asr"], points["keyword_asr"], markersize=3.5, alpha=0.6, markeredgecolor="none", clip_on=False,
                **styles[str(regime)],
            )  # fmt: skip
        ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    return figure
