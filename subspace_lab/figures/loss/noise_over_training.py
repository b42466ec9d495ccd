"""Signal and noise of the whole model's gradient over training."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from subspace_lab.figures.axis import step_axis
from subspace_lab.figures.loss.tables import error_bars, of_model
from subspace_lab.figures.panels import FIXED, line_style
from subspace_lab.figures.style import Layout, styled_figure
from subspace_lab.figures.tables import AbsentError
from subspace_lab.runs import Run

TITLE = "Noise of the gradient over training"
CAPTION = (
    "Left the gradient noise scale, in sequences: the batch at which a gradient is half noise, for all parameters and "
    "for the core and the bulk of the matrices. Right the share of signal in the energy of a gradient of the training "
    "batch, with standard errors. "
    "Below the noise scale doubling the batch nearly halves the steps needed, far above it wastes compute; a bulk "
    "with a share near zero is noise that recovery scaling would only amplify, one with a high share is signal that a "
    "low-rank optimizer throws away. "
    "It misleads on few sequences: where no signal is significant there is no scale and no point, and estimates "
    "of different checkpoints share their sequences, so that they are wrong together."
)
_PARTS = ("all", "core", "bulk")


@styled_figure(TITLE)
def draw(run: Run, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    table = of_model(run, "noise")
    if table["signal_share"].isna().all():
        raise AbsentError("No gradient had any energy.")
    rows = 1 if layout.columns > 2 else 2
    figure = Figure(figsize=(layout.width, 2.4 * rows), layout="constrained")
    scale, share = np.asarray(figure.subplots(rows, 2 // rows)).flat
    for place, part in enumerate(_PARTS):
        line = table[table["part"] == part]
        style = {**line_style(place), "label": part}
        error_bars(scale, line["step"], line["noise_scale"], line["noise_scale_se"], **style)
        error_bars(share, line["step"], line["signal_share"], line["signal_share_se"], **style)
    scale.set_title("noise scale in sequences")
    scale.set_ylim(bottom=0)
    share.set_title(f"share of signal at a batch of {table['batch_size'].iloc[0]}")
    share.axhline(0, **FIXED)
    share.legend(loc="best", ncols=3)
    for ax in (scale, share):
        step_axis(ax)
    figure.supxlabel("optimizer steps taken")
    return figure
