"""The singular spectrum late in training beside that of noise with the same norm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from subspace_lab.figures.axis import log_axis
from subspace_lab.figures.panels import NOISE, NOISE_HANDLE, band, grid
from subspace_lab.figures.style import COLOURS, INK, Layout, styled_figure
from subspace_lab.figures.tables import by_panel, finite, load, oriented_shape, positions
from subspace_lab.runs import Run
from subspace_lab.runs.tables import TABLES

TITLE = "The singular spectrum at the last capture"
CAPTION = (
    "Singular values of the gradients at the last captured step, each layer divided by its Frobenius norm: the line "
    "is the mean over the layers of a kind, the band runs from the lowest to the highest. "
    "The dashed line is what independent Gaussian noise of that shape and the same norm has; a steep start above it is "
    "energy concentrated in few directions. "
    "It misleads at its lower end: values below a thousandth of the largest carry rounding when the gradients were "
    "captured as float32 Gram matrices and are cut off here, and one step is one sample of a noisy gradient."
)
_NO_SPECTRUM = "No gradient had a finite spectrum other than zero."
_TRUSTED = 1e-3  # of the largest; see the Gram reduction


@styled_figure(TITLE)
def draw(run: Run, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    spectrum = finite(load(run, "spectrum"), "singular_value", _NO_SPECTRUM)
    spectrum = _at_last_step(run, spectrum)
    noise = _noise(run)
    panels = dict(by_panel(spectrum))
    figure, axes = grid(
        layout,
        list(panels),
        xlabel="index of the singular value",
        ylabel="σ / ‖G‖",
        key=[Line2D([], [], label="gradients", color=INK), NOISE_HANDLE],
    )
    shapes = {layer["name"]: oriented_shape(layer) for layer in run.manifest["layers"]}
    order, largest = positions(run), float(spectrum["share"].max())
    for panel, rows in panels.items():
        ax = axes[panel]
        log_axis(ax, x=True, low=1, high=spectrum["number"].max())
        log_axis(ax, low=largest * _TRUSTED, high=largest)
        band(ax, rows, "number", "share", COLOURS[order[panel] % len(COLOURS)])
        reference = noise.get(shapes[str(rows["layer"].iloc[0])])
        if reference is not None:
            shown = reference[reference["number"].isin(rows["number"])]
            ax.plot(shown["number"], shown["singular_value"], **NOISE)
    axes[next(iter(panels))].set_ylim(largest * _TRUSTED, largest * 1.6)
    return figure


def _at_last_step(run: Run, spectrum: pd.DataFrame) -> pd.DataFrame:
    """Some sixty indices, evenly spread over a logarithmic axis, of the last step, as shares of the norm."""
    step = spectrum["step"].max()
    rows = spectrum[spectrum["step"] == step].assign(number=lambda table: table["index"].astype(int) + 1)
    shown = np.unique(np.geomspace(1, rows["number"].max(), 60).round().astype(int))
    rows = rows[rows["number"].isin(shown)]
    norms = load(run, "spectrum_summary")[["step", "layer", "frobenius_norm"]]
    rows = rows.merge(norms[norms["step"] == step], on=["step", "layer"])
    return finite(rows.assign(share=rows["singular_value"] / rows["frobenius_norm"]), "share", _NO_SPECTRUM)


def _noise(run: Run) -> dict[Any, pd.DataFrame]:
    """The spectrum of noise of norm 1 for each shape (m, n); empty when the run has none."""
    if not (run.path / "analysis" / "spectrum_null.parquet").is_file():
        return {}
    table = run.table("spectrum_null", TABLES["spectrum_null"])
    return dict(iter(table.assign(number=table["index"] + 1).groupby(["m", "n"])))
