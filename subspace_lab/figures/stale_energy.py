"""How much energy a basis keeps as it grows old."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from subspace_lab.figures.axis import limits
from subspace_lab.figures.labels import null_lines
from subspace_lab.figures.panels import grid, kind_height, kind_lines
from subspace_lab.figures.style import Layout, styled_figure
from subspace_lab.figures.tables import AbsentError, at_telling_rank, load, positions
from subspace_lab.runs import Run

TITLE = "Energy that a stale basis keeps"
CAPTION = (
    "How much of a gradient's norm, ‖SᵀG‖ / ‖G‖, lies in the top-r space of an earlier gradient, against the age of "
    "that space; means over layers and steps, and at the left the gradient's own space, which no other of that rank "
    "can beat. "
    "The sooner a line falls towards the dotted one, √(r/m), which any fixed basis reaches on isotropic noise, the "
    "more often that kind of layer needs a new basis. "
    "It misleads at the right end: the longest ages are measured late in training only, and the drop from the own "
    "space to the first stale one is partly noise of the batch, which the own space has fitted."
)


@styled_figure(TITLE)
def draw(run: Run, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    energy, rank = at_telling_rank(run, load(run, "energy"))
    if not (energy["basis"] == "stale").any():
        raise AbsentError(_why_no_stale(run))
    ages = sorted(set(energy["lag_steps"]) - {0})
    energy = energy.assign(place=energy["lag_steps"].replace(0, ages[0] / 2))
    by_size = {f"m = {m}": rows for m, rows in energy.groupby("m")}
    figure, axes = grid(
        layout.at_most(layout.columns // 2),
        list(by_size),
        xlabel="age of the basis in optimizer steps (0: the gradient's own)",
        ylabel=f"‖SᵀG‖ / ‖G‖ at rank {rank}",
        height=kind_height(max(rows["panel"].nunique() for rows in by_size.values())),
    )
    means = energy.groupby(["panel", "lag_steps"], observed=True)["ratio"].mean()
    for name, rows in by_size.items():
        axes[name].set_ylim(limits(means, energy["null_isotropic"].min() ** 0.5))
        _age_axis(axes[name], ages)
        kind_lines(axes[name], rows, "place", "ratio", positions(run), layout)
        null_lines(axes[name], [("fixed basis", float(rows["null_isotropic"].iloc[0]) ** 0.5, 1)])
    return figure


def _why_no_stale(run: Run) -> str:
    if not run.keep.startswith(("full", "gram")):
        return f"The energy of a stale basis needs gradients captured with keep=gram or full; this run kept {run.keep}."
    return "There are too few captured steps to measure the energy of a stale basis."


def _age_axis(ax: Axes, ages: list[int]) -> None:
    """Ages on a logarithmic axis, and 0 at its left end."""
    ax.set_xscale("log", base=2)
    shown = ages[:: -(-len(ages) // 8)]
    ax.set_xticks([ages[0] / 2, *shown], ["0", *map(str, shown)])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(ages[0] / 2.4, ages[-1] * 1.2)
