"""Attack success of every defense under every threat, with intervals."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from subspace_lab.figures.style import COLOURS, INK, MARKERS, Layout, picture
from subspace_lab.figures.tables import AbsentError
from subspace_lab.studies.safety.figures.rows import draw_marks, row_panels
from subspace_lab.studies.safety.reading import CELL, Tables, panel_titles, present


@picture(
    "Attack success by threat and defense",
    "The share of restricted test prompts that the tuned model answers, in the attacker's worst case: at the learning "
    "rate with the highest success among those that keep 0.9 of the best undefended utility. Large marks are means "
    "over seeds with Student's 95 % interval, cut at 0 and 1 (of a single seed it is Wilson's interval over prompts); "
    "small ones are the seeds. A cross says that no learning rate kept the task: such a defense is not safe, it is of "
    "no use. The rate is chosen on the seeds that are shown, which flatters the attacker a little. Low success says "
    "nothing about how a model refuses: see over-refusal and kept knowledge in the table.",
)
def attack_success(tables: Tables, layout: Layout) -> Figure:
    """Draw a row per defense and a mark per threat, a panel per task and optimizer."""
    rows = tables.headline
    rows = rows[rows["seeds"] > 0] if len(rows) else rows  # others were never trained, or not to the end
    if rows.empty or rows.loc[rows["guarded"].astype(bool), "asr"].isna().all():
        raise AbsentError("No attack success is measured: no model is judged, or no judge can tell an answer.")
    named = panel_titles(rows)
    rows = rows.assign(title=named, name=rows["defense"], series=rows["threat"], value=rows["asr"])
    panels = {str(title): present(tables.defenses, of, "defense") for title, of in rows.groupby("title", sort=False)}
    styles: dict[str, dict[str, Any]] = {
        threat: {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}
        for place, threat in enumerate(tables.threats)
    }
    key = [Line2D([], [], linestyle="", markersize=5, label=threat, **style) for threat, style in styles.items()]
    key.append(Line2D([], [], linestyle="", marker="x", color=INK, label="no rate keeps the task"))
    figure, axes = row_panels(
        layout, panels, xlabel="attack success (share of prompts answered)", key=key, row=0.14 + 0.045 * len(styles)
    )
    for ax in axes.values():
        ax.set_xlim(-0.03, 1.03)
    seeds = tables.at_choice.groupby([*CELL, "seed"])[["asr", "asr_low", "asr_high"]].mean().reset_index()
    seeds = seeds.merge(rows[[*CELL, "title", "name", "series"]], on=CELL)
    small = {name: {**style, "marker": ".", "markersize": 2.5, "alpha": 0.6} for name, style in styles.items()}
    draw_marks(axes, panels, seeds[["title", "name", "series"]].assign(value=seeds["asr"]), small)
    draw_marks(axes, panels, _with_ends(rows, seeds), styles)
    crosses = {name: {"marker": "x", "markersize": 3.5, "color": style["color"]} for name, style in styles.items()}
    draw_marks(
        axes, panels, rows.loc[~rows["guarded"].astype(bool), ["title", "name", "series"]].assign(value=0.0), crosses
    )
    return figure


def _with_ends(rows: pd.DataFrame, seeds: pd.DataFrame) -> pd.DataFrame:
    """The rows that have a value, with Student's interval, or Wilson's where there is one seed."""
    rows = rows[rows["asr"].notna()].merge(
        seeds.groupby(CELL)[["asr_low", "asr_high"]].agg(["first", "size"]).set_axis(
            ["first_low", "number", "first_high", "_"], axis=1
        ),
        left_on=CELL, right_index=True, how="left",
    )  # fmt: skip
    alone = rows["number"] == 1
    low, high = (rows[f"asr_{end}"].where(~alone, rows[f"first_{end}"]) for end in ("low", "high"))
    return rows.assign(low=low.clip(0, 1), high=high.clip(0, 1))
