"""Fig. 2: the leading singular values of the derivative of the subspace error, raw and normalized."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from subspace_lab._text import count
from subspace_lab.experiments.captured import TANGENT, tangents_at_moments
from subspace_lab.figures.axis import log_axis
from subspace_lab.figures.panels import NOISE, NOISE_HANDLE, grid, stage_handles, stage_lines
from subspace_lab.figures.style import Layout, picture
from subspace_lab.figures.tables import AbsentError
from subspace_lab.studies.grass_paper.quantity import PaperStore, Quantity
from subspace_lab.studies.grass_paper.variants import adamw, every_seed


def measure(store: PaperStore) -> pd.DataFrame:
    """The `tangents_at_moments` of AdamW's captured runs."""
    table = store.read(TANGENT)
    return table if table.empty else tangents_at_moments(table[table["method"] == "adamw"])


def _draw(table: pd.DataFrame, layout: Layout, *, y: str, ylabel: str) -> Figure:
    """Means over seeds and layers, a line per step; `y` is ``singular_value`` or ``normalized``, which has a null."""
    table = table[table[y] > 0]
    if table.empty:
        raise AbsentError("No captured run is complete.")
    means = table.groupby(["kind", "step", "index"], sort=False)[[y, "null_noise"]].mean().reset_index()
    means["index"] += 1
    kinds, stages = list(dict.fromkeys(table["kind"])), {f"step {step}": [step] for step in sorted(set(table["step"]))}
    nulls = [NOISE_HANDLE] if y == "normalized" else []
    lag, seeds = int(table["lag_steps"].min()), count(table["seed"].nunique(), "seed")
    figure, axes = grid(
        layout, kinds, ylabel=f"{ylabel} {int(table['rank'].iloc[0])}", key=[*stage_handles(stages), *nulls],
        xlabel=f"index, at a basis {lag} steps old (mean of {seeds})",
    )  # fmt: skip
    low, high = float(means[y].quantile(0.02)), float(means[y].max())
    for place, kind in enumerate(kinds):
        ax, rows = axes[kind], means[means["kind"] == kind]
        log_axis(ax, low=low, high=high)
        ax.set_xticks([1, 5, 10, 15, 20])
        stage_lines(ax, rows, "index", y, stages, place)
        if nulls:
            null = rows.groupby("index")["null_noise"].mean()
            ax.plot(null.index, null.where(null > 0), **NOISE)
    return figure


@picture(
    "Singular values of the subspace error's derivative",
    "The largest singular values (at most twenty) of −2 (I − SSᵀ) GGᵀS, divided by ‖G‖², by kind of layer, at the "
    "beginning, in the middle and at the end of trainings with AdamW. S is the basis of the previous capture. The "
    "dashed line is the expected value for Gaussian noise and a random basis: small values alone do not show that the "
    "landscape is flat. The values grow with the age of the basis.",
)
def normalized(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw the values over the squared norm of the gradient, a panel per kind of layer."""
    return _draw(table, layout, y="normalized", ylabel="σ / ‖G‖² at rank")


@picture(
    "Singular values of the subspace error's derivative, raw",
    "The same singular values, not divided by ‖G‖². They mostly follow the squared norm of the gradient, which "
    "differs between kinds of layers and falls over training: small values here mean small gradients.",
)
def raw(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw the values as they are, a panel per kind of layer."""
    return _draw(table, layout, y="singular_value", ylabel="σ at rank")


QUANTITY = Quantity(
    title="tangent singular values",
    measure=measure,
    pictures={"fig2": normalized, "fig2_raw": raw},
    columns={
        "seed": "int", "step": "int", "kind": "str", "index": "int", "rank": "int", "lag_steps": "int",
        "singular_value": "float", "normalized": "float", "null_noise": "float",
    },
    variants=adamw,
    captured=every_seed,
)  # fmt: skip
