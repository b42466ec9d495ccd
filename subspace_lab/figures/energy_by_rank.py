"""Energy that the core leaves out, against its rank."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from subspace_lab.figures.axis import log_axis
from subspace_lab.figures.panels import FIXED, NOISE, NOISE_HANDLE, grid, stage_handles, stage_lines
from subspace_lab.figures.style import Layout, styled_figure
from subspace_lab.figures.tables import AbsentError, by_panel, finite, load, positions, stages
from subspace_lab.runs import Run

TITLE = "Energy outside the core against its rank"
CAPTION = (
    "Share of ‖G‖² that the top-r space of the gradient itself leaves out, 1 − ‖SᵀG‖² / ‖G‖², for every measured rank; "
    "means over layers and over a third of the captured steps, the later the stronger. "
    "The rank that you need is where a line falls below what you are ready to lose; the steeper it falls, the fewer "
    "directions hold the gradient, and noise (dashed, with its own space; dotted, with a fixed basis) falls slowly. "
    "It misleads about training: what lies outside the core is small in energy, which does not say that it is "
    "unimportant for the loss."
)


@styled_figure(TITLE)
def draw(run: Run, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    energy = load(run, "energy")
    own = finite(energy[energy["basis"] == "own"], "fraction", "No gradient had a finite energy.")
    own = own.assign(outside=1 - own["fraction"])
    own = own[own["outside"] > 0]
    if own["rank"].nunique() < 2:
        raise AbsentError("Energy was measured at fewer than two ranks that leave anything out.")
    panels, parts, order = dict(by_panel(own)), stages(set(own["step"])), positions(run)
    figure, axes = grid(
        layout,
        list(panels),
        xlabel="rank r of the core",
        ylabel="1 − ‖SᵀG‖² / ‖G‖²",
        key=[*stage_handles(parts), NOISE_HANDLE, Line2D([], [], label="fixed basis", **FIXED)],
    )
    low = float(own.groupby(["panel", "rank"], observed=True)["outside"].mean().min())
    for panel, rows in panels.items():
        log_axis(axes[panel], low=low, high=1)
        _rank_axis(axes[panel], sorted(set(own["rank"])))
        stage_lines(axes[panel], rows, "rank", "outside", parts, order[panel])
        _nulls(axes[panel], rows)
    return figure


def _rank_axis(ax: Axes, ranks: list[int]) -> None:
    ax.set_xscale("log", base=2)
    shown = ranks[:: -(-len(ranks) // 6)]
    ax.set_xticks(shown, list(map(str, shown)))
    ax.xaxis.set_minor_locator(NullLocator())


def _nulls(ax: Axes, rows: pd.DataFrame) -> None:
    outside = 1 - rows.groupby("rank")[["null_noise", "null_isotropic"]].first()
    outside = outside.where(outside > 0)
    ax.plot(outside.index, outside["null_noise"], **NOISE)
    ax.plot(outside.index, outside["null_isotropic"], **FIXED)
