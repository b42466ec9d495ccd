"""The largest singular values of the curvature tangent, per layer kind, over training."""

from __future__ import annotations

from matplotlib.figure import Figure

from subspace_lab.figures.axis import log_axis
from subspace_lab.figures.panels import NOISE, NOISE_HANDLE, grid, stage_handles, stage_lines
from subspace_lab.figures.style import Layout, styled_figure
from subspace_lab.figures.tables import at_reference_rank, by_panel, finite, load, positions, stages
from subspace_lab.runs import Run

TITLE = "How steep the subspace error is"
CAPTION = (
    "The largest singular values, twenty at most, of the derivative of the subspace estimation error, "
    "−2 (I − SSᵀ) GGᵀS, at the basis of an earlier capture, divided by ‖G‖²; means over layers and over a third of "
    "the captured steps, the later the stronger. "
    "Compare with the dashed line, what Gaussian noise gives at a basis chosen blindly: small values alone are no sign "
    "of a flat landscape. A level line has no direction in which turning the basis would gain more than in others; one "
    "value that towers over the rest is such a direction. "
    "It misleads when values are compared across different ages of the basis: at a fresh one they are zero whatever "
    "the curvature, and they grow as it gets older."
)


@styled_figure(TITLE)
def draw(run: Run, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    curvature, rank = at_reference_rank(run, load(run, "curvature"))
    lag = int(curvature["lag_steps"].min())
    curvature = curvature[(curvature["lag_steps"] == lag) & (curvature["normalized"] > 0) & (curvature["index"] < 20)]
    curvature = finite(curvature, "normalized", "The derivative of the subspace error vanished in every capture.")
    curvature = curvature.assign(number=curvature["index"] + 1)
    panels, parts, order = dict(by_panel(curvature)), stages(set(curvature["step"])), positions(run)
    figure, axes = grid(
        layout,
        list(panels),
        xlabel=f"index of the singular value, at a basis {lag} steps old",
        ylabel=f"σ / ‖G‖² at rank {rank}",
        key=[*stage_handles(parts), *([NOISE_HANDLE] if curvature["null_noise"].any() else [])],
    )
    low, high = map(float, curvature["normalized"].quantile([0.01, 1]))
    for panel, rows in panels.items():
        ax = axes[panel]
        log_axis(ax, low=low, high=high)
        ax.set_xticks([1, 5, 10, 15, 20])
        stage_lines(ax, rows, "number", "normalized", parts, order[panel])
        noise = rows.groupby("number")["null_noise"].mean()
        ax.plot(noise.index, noise.where(noise > 0), **NOISE)
    return figure
