"""The loss over training."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from subspace_lab.figures.axis import step_axis
from subspace_lab.figures.style import COLOURS, Layout, styled_figure
from subspace_lab.figures.tables import AbsentError
from subspace_lab.runs import Run

TITLE = "Loss"
CAPTION = (
    "The loss of every optimizer step as it was logged, and the loss on held-out text where it was evaluated; for "
    "language models it is the cross-entropy in nats per token. "
    "It says how far along the run was when the gradients were captured (ticks at the bottom). "
    "A single step is the loss of one batch: differences smaller than the scatter of neighbouring steps mean nothing."
)
_MOST_POINTS = 1000


@styled_figure(TITLE)
def draw(run: Run, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    metrics = run.curves("loss", "eval_loss")
    if not np.isfinite(metrics["loss"]).any():
        raise AbsentError("No loss was logged; pass it to the capture: capture.log(loss=...).")
    figure = Figure(figsize=(layout.width, 2.6), layout="constrained")
    ax = figure.subplots()
    _train_loss(ax, metrics[["step", "loss"]].dropna())
    if metrics["eval_loss"].notna().any():
        held_out = metrics[["step", "eval_loss"]].dropna()
        ax.plot(held_out["step"], held_out["eval_loss"], color=COLOURS[3], marker="D", label="held-out text")
    ax.plot(run.steps, np.zeros(len(run.steps)), "|", transform=ax.get_xaxis_transform(), color=COLOURS[2],
            markersize=7, clip_on=False, label="gradients captured")  # fmt: skip
    ax.set(xlabel="optimizer step", ylabel="loss")
    step_axis(ax)
    ax.legend(loc="upper right")
    return figure


def _train_loss(ax: Axes, losses: pd.DataFrame) -> None:
    width = -(-len(losses) // _MOST_POINTS)
    label = "training batch" if width == 1 else f"training batch, mean of {width} steps"
    means = losses.groupby(np.arange(len(losses)) // width).mean() if width > 1 else losses
    ax.plot(means["step"], means["loss"], color=COLOURS[0], linewidth=0.9, label=label,
            marker="o" if len(means) == 1 else "")  # fmt: skip
