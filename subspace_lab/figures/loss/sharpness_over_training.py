"""The Hessian of the whole model over training: eigenvalues, trace, and the gradient's share in the dominant space."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from subspace_lab.figures.axis import step_axis
from subspace_lab.figures.loss.tables import error_bars, of_model
from subspace_lab.figures.panels import FIXED
from subspace_lab.figures.style import COLOURS, Layout, styled_figure
from subspace_lab.runs import Run

TITLE = "Sharpness of the loss over training"
CAPTION = (
    "Of the Hessian of the loss with respect to all parameters, at the run's checkpoints: its largest eigenvalues (the "
    "largest the strongest; open circles did not converge), its trace with the standard error, and the share χ of the "
    "gradient's norm in the space of those eigenvectors, with the dotted line for a random direction. "
    "Few eigenvalues high above the trace divided by the number of parameters mean that the loss is sharp in few "
    "directions and flat in the rest; where the largest settles near 2 / learning rate of plain gradient descent, it "
    "is the step size that limits it. "
    "It misleads as a measure of how well a model generalizes, since rescaled weights change it and not the model, and "
    "it is that of a few sequences of text only."
)


@styled_figure(TITLE)
def draw(run: Run, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    summary, values = of_model(run, "hessian_summary"), of_model(run, "hessian")
    rows = 1 if layout.columns > 2 else 3
    figure = Figure(figsize=(layout.width, 2.3 * rows), layout="constrained")
    spectrum, trace, share = np.asarray(figure.subplots(rows, 3 // rows)).flat
    largest = int(values["index"].max())
    for index in range(largest + 1):
        line = values[values["index"] == index]
        strength = 1 - 0.7 * index / (largest + 1)
        spectrum.plot(line["step"], line["eigenvalue"], color=COLOURS[0], alpha=strength, marker="o")
    missed = values[~values["converged"]]
    spectrum.plot(missed["step"], missed["eigenvalue"], "o", color=COLOURS[3], fillstyle="none", markersize=6)
    _named(spectrum, f"{largest + 1} largest eigenvalues")
    error_bars(trace, summary["step"], summary["trace"], summary["trace_se"], color=COLOURS[2], marker="s")
    _named(trace, "trace")
    share.plot(summary["step"], summary["chi"], color=COLOURS[3], marker="D")
    share.axhline(float(summary["null_chi"].mean()), **FIXED)
    _named(share, "share χ of the gradient")
    share.set_ylim(bottom=0)
    figure.supxlabel("optimizer steps taken")
    return figure


def _named(ax: Axes, title: str) -> None:
    ax.set_title(title)
    step_axis(ax)
