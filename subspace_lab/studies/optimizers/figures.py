"""The figures of a comparison, drawn from its tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from subspace_lab.experiments.statistics import best_rows, pareto_front
from subspace_lab.figures.axis import log_axis, step_axis
from subspace_lab.figures.labels import end_labels, shortened
from subspace_lab.figures.panels import line_style
from subspace_lab.figures.style import INK, NULL_DASHES, Layout, picture
from subspace_lab.figures.tables import AbsentError

_HEIGHT = 3.4  # inches
_POINTS = 60  # along a curve
_MARKERS = 8  # along a curve
_SKIPPED = 0.1  # of the training, when the height of the axes is chosen
_NOTHING = "No trial is complete."


@dataclass(eq=False)
class Tables:
    """The tables of a comparison.

    Attributes:
        results: One row per trial.
        curves: One row per step of every trial.
        table: One row per method, at its best setting.
    """

    results: pd.DataFrame
    curves: pd.DataFrame
    table: pd.DataFrame

    def best(self) -> dict[str, pd.DataFrame]:
        """The curves of the trials that count for each method, at its best setting; in the order of the comparison."""
        curves = self.curves.merge(best_rows(self.results)[["method", "cell"]])
        found = {method: curves[curves["method"] == method] for method in self.places}
        return {method: rows for method, rows in found.items() if len(rows)}

    @property
    def places(self) -> dict[str, int]:
        """The place of each method in the comparison, which decides its colour and marker."""
        return {method: place for place, method in enumerate(dict.fromkeys(self.results["method"]))}


def averaged(rows: pd.DataFrame, x: str) -> pd.DataFrame:
    """Means over blocks of steps, then over seeds: x, loss, low and high (the lowest and the highest seed)."""
    width = -(-rows["step"].nunique() // _POINTS)
    blocks = rows.assign(block=rows["step"] // width)
    seeds = blocks.groupby(["block", "seed"])[list(dict.fromkeys([x, "loss"]))].mean()
    spread = seeds["loss"].groupby("block").agg(["mean", "min", "max"]).set_axis(["loss", "low", "high"], axis=1)
    return spread.assign(**{x: seeds[x].groupby("block").mean()})


def _draw_curves(tables: Tables, layout: Layout, *, x: str, xlabel: str) -> Figure:
    curves = {method: averaged(rows, x) for method, rows in tables.best().items()}
    if not curves:
        raise AbsentError(_NOTHING)
    figure = Figure(figsize=(layout.width, _HEIGHT), layout="constrained")
    ax = figure.subplots()
    ends = {}
    for method, curve in curves.items():
        style = line_style(tables.places[method])
        ax.fill_between(curve[x], curve["low"], curve["high"], color=style["color"], alpha=0.2, linewidth=0)
        ax.plot(curve[x], curve["loss"], **style, markevery=max(1, len(curve) // _MARKERS))
        ends[method] = (float(curve[x].iloc[-1]), float(curve["loss"].iloc[-1]), style["color"])
    ax.set(xlabel=xlabel, ylabel="training loss")
    ax.set_xlim(0)
    _set_height(ax, curves.values())
    step_axis(ax)
    end_labels(ax, ends, layout)
    return figure


def _set_height(ax: Axes, curves: Iterable[pd.DataFrame]) -> None:
    """Fit the axis to what comes after the first steep fall, so that differences can be seen."""
    late = pd.concat([curve.iloc[int(_SKIPPED * len(curve)) :] for curve in curves])
    low, high = float(late["low"].min()), float(late["high"].max())
    if np.isfinite([low, high]).all():
        room = 0.06 * (high - low) or 0.05
        ax.set_ylim(low - room, high + room)


@picture(
    "Loss over steps",
    "The training loss of every method at its best setting, averaged over blocks of steps; the line is the mean "
    "over seeds, the band reaches from the lowest to the highest seed. All methods see the same batches and begin with "
    "the same weights, so that wiggles in common are the data's. The steep beginning is cut off. Overlapping bands do "
    "not prove that two methods are equal, since seeds are paired: the table has the paired differences.",
)
def loss_over_steps(tables: Tables, layout: Layout) -> Figure:
    """Draw a line with its band per method."""
    return _draw_curves(tables, layout, x="step", xlabel="optimizer step")


@picture(
    "Loss over wall time",
    "The same curves over the time of training, without evaluations and checkpoints; the time is the mean over seeds "
    "as well. A method whose steps are slower ends further to the right. All trials were trained for the same number "
    "of steps with a learning rate that falls towards the last one, so a shorter training would not have followed the "
    "same curve. The times depend on the machine and on what else it ran.",
)
def loss_over_time(tables: Tables, layout: Layout) -> Figure:
    """Draw a line with its band per method."""
    return _draw_curves(tables, layout, x="wall_s", xlabel="time of training (s)")


@picture(
    "Loss by optimizer state",
    "The loss on held-out text of every method at its best setting (mean over seeds, the bar is one standard "
    "deviation to either side) against the bytes of its optimizer's tensors. Lower and further left is better; the "
    "dashed line joins the methods that no other one beats in both. Where bars overlap, other seeds may change that "
    "line. Embeddings, head and norms are full-rank AdamW in all methods: in a small model they are most of the state, "
    "which moves all points to the right.",
)
def loss_by_state(tables: Tables, layout: Layout) -> Figure:
    """Draw a point per method and the Pareto front."""
    table = tables.table.dropna(subset=["eval_loss", "state_bytes"])
    if table.empty:
        raise AbsentError(_NOTHING)
    table = table.assign(megabytes=table["state_bytes"] / 1e6)
    rows = -(-len(table) // 2) if layout.columns <= 2 else 0  # of names below the axes
    figure = Figure(figsize=(layout.width, _HEIGHT + 0.15 * rows), layout="constrained")
    ax = figure.subplots()
    low, high = float(table["megabytes"].min()) / 1.25, float(table["megabytes"].max()) * 1.25
    log_axis(ax, x=True, low=low, high=high)
    ax.set_xlim(low, high)
    front = pareto_front(table, "state_bytes")
    ax.plot(front["megabytes"], front["eval_loss"], color=INK, linewidth=0.9, linestyle=NULL_DASHES[0], zorder=1.5)
    for row in table.to_dict("records"):  # the lowest loss comes first
        spread = None if pd.isna(row["eval_sd"]) else row["eval_sd"]
        style = {**line_style(tables.places[row["method"]]), "linestyle": "", "label": shortened(row["method"], 24)}
        ax.errorbar(row["megabytes"], row["eval_loss"], spread, **style, markersize=5)
    if rows:
        figure.legend(loc="outside lower left", ncols=2, fontsize=layout.font_size - 2)
    else:
        figure.legend(loc="outside right upper")
    ax.set(xlabel="optimizer state (MB)", ylabel="held-out loss")
    return figure


FIGURES = {"loss_over_steps": loss_over_steps, "loss_over_time": loss_over_time, "loss_by_state": loss_by_state}
