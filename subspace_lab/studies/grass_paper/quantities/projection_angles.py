"""Principal angles between the top-r spaces of gradients at different steps, as histograms beside random ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from subspace_lab._text import count
from subspace_lab.figures.panels import grid, line_style
from subspace_lab.figures.style import INK, Layout, picture
from subspace_lab.figures.tables import finite
from subspace_lab.studies.grass_paper.captured_tables import ANGLES
from subspace_lab.studies.grass_paper.quantity import PaperStore, Quantity
from subspace_lab.studies.grass_paper.variants import adamw, every_seed


def measure(store: PaperStore) -> pd.DataFrame:
    """The `angle_histograms` of the first seed of AdamW."""
    table = store.read(ANGLES)
    return table if table.empty else table[table["seed"] == 0].drop(columns=["cell", "method", "seed"])


_RANDOM: dict[str, Any] = {"fill": True, "facecolor": INK, "alpha": 0.16, "linewidth": 0, "zorder": 1}


@picture(
    "Principal angles between steps",
    "Distribution of the cosines of the principal angles between the top-r spaces of a layer's gradients at two "
    "captures, by the number of steps between them, over all pairs of captures and all layers of a kind. A cosine of "
    "1 is a direction that both spaces share. The grey area is the distribution for two random subspaces of the same "
    "dimensions: cosines to the right of its edge belong to directions that persisted, cosines within it are "
    "consistent with chance. Small cosines do not show that training moves the space: the directions of smallest "
    "energy come from the noise of single batches and would change even if the weights did not.",
)
def histogram(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw the densities of the cosines, a panel per kind of layer."""
    table = finite(table, "density", "No two captures were compared.")
    panels = {str(name): rows for name, rows in table.groupby(_names(table), sort=False)}
    lags = sorted(set(table["lag_steps"]))
    styles = {lag: {**line_style(place), "marker": ""} for place, lag in enumerate(lags)}
    key = [Line2D([], [], label=f"{count(lag, 'step')} apart", **styles[lag]) for lag in lags]
    figure, axes = grid(
        layout.at_most(2),  # wide panels, since lines lie close to each other
        list(panels),
        height=1.8,
        xlabel=f"cosine of the principal angle (rank {', '.join(map(str, sorted(set(table['rank']))))})",
        ylabel="density",
        key=[*key, Patch(label="random subspaces", **_RANDOM)],
    )
    for name, rows in panels.items():
        ax, by_lag = axes[name], {int(str(lag)): bins for lag, bins in rows.groupby("lag_steps")}
        for lag, bins in by_lag.items():
            style = styles[lag]
            ax.stairs(bins["density"], _edges(bins), baseline=None, color=style["color"], ls=style["linestyle"])
        bins = by_lag[min(by_lag)]
        ax.stairs(bins["null_density"], _edges(bins), **_RANDOM)
        ax.set_xlim(0, 1)
        ax.set_xticks([0, 0.5, 1])
    next(iter(axes.values())).set_ylim(0)
    return figure


def _names(table: pd.DataFrame) -> pd.Series:
    """The panel of each row: its kind, and m where layers of that kind differ in it."""
    several = table.groupby("kind")["m"].transform("nunique") > 1
    return table["kind"].where(~several, table["kind"] + ", m = " + table["m"].astype(str))


def _edges(bins: pd.DataFrame) -> np.ndarray:
    return np.append(bins["bin_low"], bins["bin_high"].iloc[-1])


QUANTITY = Quantity(
    title="principal angles",
    measure=measure,
    pictures={"projection_angles": histogram},
    columns={
        "kind": "str", "m": "int", "rank": "int", "lag_steps": "int", "bin_low": "float", "bin_high": "float",
        "count": "int", "density": "float", "null_density": "float",
    },
    variants=adamw,
    captured=every_seed,
)  # fmt: skip
