"""How much of core and bulk is signal, per layer."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from subspace_lab.figures.loss.tables import depth_axis, error_bars, of_layers
from subspace_lab.figures.panels import FIXED, grid, line_style
from subspace_lab.figures.style import Layout, styled_figure
from subspace_lab.runs import Run

TITLE = "Signal in core and bulk over depth"
CAPTION = (
    "The share of signal in the energy of the core and of the bulk of a layer's gradient at the training batch, "
    "against depth, at the last checkpoint, with standard errors. The core is a top-r space of other batches. "
    "A bulk whose share is far above zero holds gradient that a projection throws away and recovery scaling brings "
    "back; one at zero holds noise. "
    "It misleads at other batches: the share grows with the batch (signal / (signal + noise / batch)), and a bulk "
    "that is noise here may be signal at a batch ten times as large."
)
_PARTS = ("core", "bulk")


@styled_figure(TITLE)
def draw(run: Run, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    panels, _ = of_layers(run, "noise", "signal_share")
    last = max(int(rows["step"].max()) for rows in panels.values())
    styles = {part: line_style(place) for place, part in enumerate(_PARTS)}
    key = [Line2D([], [], label=part, **style) for part, style in styles.items()]
    figure, axes = grid(
        layout,
        list(panels),
        xlabel=f"depth (block index), at step {last}",
        ylabel="share of signal",
        key=key,
    )
    for panel, rows in panels.items():
        depth_axis(axes[panel], rows)
        axes[panel].axhline(0, **FIXED)
        for part in _PARTS:
            line = rows[(rows["step"] == last) & (rows["part"] == part)].sort_values("depth")
            error_bars(axes[panel], line["depth"], line["signal_share"], line["signal_share_se"], **styles[part])
    return figure
