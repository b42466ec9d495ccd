"""Overlaps of what alignment, a clean and a poisoned tuning changed, by kind and by depth, with their nulls."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from subspace_lab.figures.axis import limits
from subspace_lab.figures.style import COLOURS, INK, MARKERS, Layout, picture
from subspace_lab.figures.tables import AbsentError
from subspace_lab.studies.safety.figures.rows import draw_marks, over_seeds, row_panels
from subspace_lab.studies.safety.reading import Tables, panel_titles, present

_PAIRS = ("alignment-utility", "alignment-harm", "utility-harm")
_NULL: dict[str, Any] = {"linestyle": "", "marker": "|", "color": INK, "markersize": 4.5, "markeredgewidth": 1.2}


@picture(
    "Overlap of updates",
    "How much of the smaller of two spaces lies in the larger one: alignment minus base (alignment), tuned on clean "
    "rows minus aligned (utility), tuned on poisoned rows minus aligned (harm). A space holds 0.9 of the energy of an "
    "update; marks are means over the matrices of a kind or of a block and over seeds, with Student's 95 % interval "
    "over seeds. Upright strokes are the overlap of random spaces of these dimensions: only what lies beside them says "
    "anything. If safety had a subspace of its own, alignment and harm would overlap by more than alignment and "
    "utility do. The shorter side of each matrix is looked at; square ones by their outputs.",
)
def overlaps(tables: Tables, layout: Layout) -> Figure:
    """Draw rows of kinds and rows of blocks, three marks in each with its null, two panels per task and optimizer."""
    rows = tables.updates
    pairs = present(_PAIRS, rows, "pair")
    if not pairs:
        raise AbsentError("No overlaps of updates are measured: they need a clean and a poisoned tuning.")
    rows = rows[rows["pair"].isin(pairs)]
    rows = rows.assign(
        title=panel_titles(rows),
        block=[f"block {depth}" if depth >= 0 else "outside of blocks" for depth in rows["depth"]],
        series=rows["pair"],
        value=rows["overlap"],
    )
    parts = pd.concat([
        ordered.assign(name=ordered[by], title=_titles(ordered["title"], by))
        for by, ordered in (("kind", rows), ("block", rows.sort_values("depth", kind="stable")))
    ])  # fmt: skip
    panels = {str(title): list(dict.fromkeys(of["name"])) for title, of in parts.groupby("title", sort=False)}
    panels = dict(sorted(panels.items(), key=lambda item: item[0].endswith("block")))
    styles: dict[str, dict[str, Any]] = {
        pair: {"color": COLOURS[place], "marker": MARKERS[place]} for place, pair in enumerate(pairs)
    }
    key = [Line2D([], [], linestyle="", markersize=5, label=pair, **style) for pair, style in styles.items()]
    key.append(Line2D([], [], label="random spaces", **_NULL))
    figure, axes = row_panels(layout, panels, xlabel="overlap", key=key, row=0.26)
    marks, nulls = over_seeds(parts), over_seeds(parts.assign(value=parts["null_overlap"]))
    for ax in axes.values():
        ax.set_xlim(*limits(marks["value"], *nulls["value"]))
    draw_marks(axes, panels, nulls.drop(columns=["low", "high"]), dict.fromkeys(pairs, _NULL))
    draw_marks(axes, panels, marks, styles)
    return figure


def _titles(titles: pd.Series[str], by: str) -> list[str]:
    return [f"{title}: by {by}" if titles.nunique() > 1 else f"by {by}" for title in titles]
