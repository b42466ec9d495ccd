"""Tables 1 and 2: every method and AdamW, with losses, bytes by formula and as measured, and time."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from subspace_lab.experiments.present import latex_table
from subspace_lab.experiments.statistics import pareto_front, summary
from subspace_lab.experiments.store import RESULTS, TABLES
from subspace_lab.figures.style import COLOURS, INK, Layout, picture
from subspace_lab.figures.tables import finite
from subspace_lab.runs.files import publish
from subspace_lab.studies.grass_paper.profiles import Profile
from subspace_lab.studies.grass_paper.quantities.drawing import note_handle, point_style, shown
from subspace_lab.studies.grass_paper.quantity import PaperStore, Quantity
from subspace_lab.studies.grass_paper.variants import Variants, larger, methods


def _measure(store: PaperStore, *, variants: Callable[[Profile], Variants], name: str) -> pd.DataFrame:
    """The `summary` of some variants, the lowest held-out loss first; it is also written as CSV and LaTeX."""
    rows = store.read(RESULTS)
    rows = rows[rows["method"].isin(variants(store.profile)) & ~rows["captured"]] if len(rows) else rows
    table = summary(rows) if len(rows) else rows
    if table.empty or not table["seeds"].any():
        return pd.DataFrame()
    with publish(store.path / TABLES / f"{name}.csv") as aside:
        table.to_csv(aside, index=False)
    with publish(store.path / TABLES / f"{name}.tex") as aside:
        aside.write_text(latex_table(table), encoding="utf-8")
    return table


_PANELS = {
    "eval_loss": ("held-out loss, mean and 95 % interval", 1.0),
    "state_bytes": ("state (MB)", 1e6),
    "wall_s": ("time (s)", 1.0),
}


@picture(
    "Every method",
    "Held-out loss of every method at its best setting (mean over seeds with Student's 95 % interval), bytes of "
    "the optimizer's tensors, and training time. The table of methods also has train losses, peak memory, memory by "
    "formula, refresh shares, and the gaps paired by seed, which compare methods more precisely than these intervals. "
    "In all methods full-rank AdamW trains the embeddings, the head and the norms; in a model this small they account "
    "for most of the state.",
)
def every_method(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw a row per method, with its loss, its bytes and its time side by side."""
    table = finite(table, "eval_loss", "No training is complete.").iloc[::-1].reset_index(drop=True)
    figure = Figure(figsize=(layout.width, 0.9 + 0.21 * len(table)), layout="constrained")
    axes = figure.subplots(1, len(_PANELS), sharey=True, width_ratios=[2, 1, 1])
    for ax, (column, (label, unit)), colour in zip(axes, _PANELS.items(), COLOURS, strict=False):
        values = table[column].astype("float64") / unit
        if column == "eval_loss":
            half = (table["eval_high"] - table["eval_loss"]).where(table["eval_high"].notna())
            ax.errorbar(values, table.index, xerr=half, fmt="o", color=colour, elinewidth=1)
            ax.set_xlim(right=(end := _end(table)))
            for place, value in values[values > end].items():
                ax.text(end, place, f"{value:.2f} → ", ha="right", va="center", fontsize=layout.font_size - 2)
        else:
            ax.barh(table.index, values, color=colour, height=0.6)
        ax.set_xlabel(label if layout.columns > 2 else label.replace(", ", "\n").replace("and ", "and\n"))
        ax.grid(axis="y", visible=False)
    names = [f"{shown(row['method'])} ({row['seeds']})" for row in table.to_dict("records")]
    axes[0].set_yticks(table.index, names)
    axes[0].set_ylabel("method (seeds)")
    return figure


_COSTS = {"state_bytes": ("state (MB)", 1e6), "wall_s": ("time of a training (s)", 1.0)}


@picture(
    "Loss against memory and time",
    "Held-out loss of every method (mean over seeds with Student's 95 % interval) against the bytes of the optimizer's "
    "tensors and against training time. The line joins the methods than which no other one has both a lower mean loss "
    "and a lower cost; what lies above it pays for nothing at this scale. Where intervals overlap, the order of two "
    "methods on the line may be chance. Times are those of one thread, partly beside other work. The state includes "
    "that of embeddings, head and norms, which is the same for all methods and most of it in a model this small.",
)
def pareto(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw the losses over both costs, with the methods that no other one beats in both."""
    table = finite(table, "eval_loss", "No training is complete.")
    rows_of_panels = 1 if layout.columns > 2 else 2
    figure = Figure(figsize=(layout.width, 0.5 + 2.9 * rows_of_panels), layout="constrained")
    axes = figure.subplots(rows_of_panels, 2 // rows_of_panels, sharey=True, squeeze=False).flat
    key, end = [], _end(table)
    for ax, (column, (label, unit)) in zip(axes, _COSTS.items(), strict=True):
        costs = table[column].astype("float64") / unit
        key = [
            ax.errorbar(cost, row["eval_loss"], yerr=_half(row), label=shown(row["method"]), elinewidth=0.8, **style)
            for cost, row, style in zip(
                costs, table.to_dict("records"), map(point_style, range(len(table))), strict=True
            )
        ]
        ax.set_ylim(top=end)
        front = pareto_front(table, column)
        ax.step(front[column] / unit, front["eval_loss"], where="post", color=INK, linewidth=0.8, zorder=1.5)
        ax.set_xlabel(label)
        ax.set_ylabel("held-out loss")
        ax.label_outer()
    outside = table[table["eval_loss"] > end]
    key += [note_handle(f"above: {shown(row['method'])}, {row['eval_loss']:.2f}") for row in outside.to_dict("records")]
    figure.legend(handles=key, loc="outside lower left", ncols=3 if layout.columns > 2 else 2)
    return figure


def _end(table: pd.DataFrame) -> float:
    """Where an axis of losses ends: what lies far above the others is named beside it; intervals below are whole."""
    losses = table["eval_loss"].astype("float64")
    low, middle, high = (float(value) for value in losses.quantile([0, 0.5, 1]))
    room = 0.05 * (high - low) or 0.05
    end = min(high + room, low + 6 * (middle - low) + room) if middle > low else high + room
    ends = table.loc[losses <= end, "eval_high"].astype("float64")
    return max(end, float(ends.max()) + room) if ends.notna().any() else end


def _half(row: dict[Hashable, Any]) -> float:
    """Half of the interval, zero where there is none."""
    half = row["eval_high"] - row["eval_loss"]
    return 0.0 if half != half else float(half)


_NUMBERS = (
    "lr", "lr_rest", "beta2", "warmup", "eval_loss", "eval_sd", "eval_low", "eval_high", "gap", "gap_low", "gap_high",
    "train_loss", "train_sd", "state_bytes", "state_bytes_formula", "peak_bytes", "base_bytes", "step_s",
    "refresh_share", "tokens", "wall_s",
)  # fmt: skip

_COLUMNS = {
    "method": "str", "edge": "str", "edge_rest": "str", "lrs": "int", "failed": "int", "seeds": "int",
    **dict.fromkeys(_NUMBERS, "float"),
}  # fmt: skip

QUANTITY = Quantity(
    title="Table 1",
    measure=partial(_measure, variants=methods, name="tables"),
    pictures={"tables": every_method, "pareto": pareto},
    columns=_COLUMNS,
    variants=methods,
)
LARGER = Quantity(
    title="Table 2, the larger size",
    measure=partial(_measure, variants=larger, name="larger"),
    pictures={"larger": every_method, "larger_pareto": pareto},
    columns=_COLUMNS,
    variants=larger,
)
