"""Whether methods whose gradients have more energy in the core, or a flatter derivative, reach a lower loss."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from subspace_lab.analysis.trends import evenness
from subspace_lab.experiments.captured import ENERGY, TANGENT
from subspace_lab.experiments.statistics import best_rows
from subspace_lab.experiments.store import RESULTS
from subspace_lab.figures.axis import log_axis
from subspace_lab.figures.style import Layout, picture
from subspace_lab.figures.tables import finite
from subspace_lab.studies.grass_paper.quantities.drawing import point_style, shown
from subspace_lab.studies.grass_paper.quantity import PaperStore, Quantity
from subspace_lab.studies.grass_paper.variants import methods

_LATE = 0.5  # of the training: what is measured before belongs to the steep beginning, which all methods share


def measure(store: PaperStore) -> pd.DataFrame:
    """Energy and derivative in the second half of a captured run, beside the method's mean held-out loss.

    Returns:
        One row per method: energy (mean ratio at the methods' rank), flatness (20th over 1st singular value of the
        derivative), steepness (the 1st, normalized), eval_loss; and, the same in every row, Spearman's correlation
        of the loss with each (rho_...) and its p value (p_...), NaN below four methods.
    """
    energies, tangents = store.read(ENERGY), store.read(TANGENT)
    rows = best_rows(store.read(RESULTS))
    if energies.empty or tangents.empty or rows.empty:
        return pd.DataFrame()
    losses: pd.Series[float] = rows.groupby("method")["eval_loss"].mean()
    own = _late(energies[energies["rank"] == store.profile.rank])
    table = pd.DataFrame({
        "energy": own.groupby("method")["ratio"].mean(),
        "flatness": evenness(_late(tangents), by=("method", "step", "kind", "depth")).groupby("method").mean(),
        "steepness": _late(tangents[tangents["index"] == 0]).groupby("method")["normalized"].mean(),
    })
    table = table.assign(eval_loss=losses).dropna().rename_axis("method").reset_index()
    for name in _PANELS:
        found = stats.spearmanr(table[name], table["eval_loss"]) if len(table) > 3 else (np.nan, np.nan)
        table[f"rho_{name}"], table[f"p_{name}"] = map(float, found)
    return table


def _late(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the second half, of the first seed."""
    rows: pd.DataFrame = table[(table["seed"] == 0) & (table["step"] >= _LATE * table["step"].max())]
    return rows


_PANELS = {"energy": "‖SᵀG‖ / ‖G‖", "flatness": "evenness, σ₂₀ / σ₁", "steepness": "σ₁ / ‖G‖²"}


@picture(
    "Energy, flatness and loss",
    "Each point is a method, from one captured run at its best setting. Horizontal axes, means over the second "
    "half of training: the energy ratio at the methods' rank, the evenness of the derivative's singular values (20th "
    "over 1st), and the 1st singular value over ‖G‖². Vertical axis: mean held-out loss. ρ is Spearman's correlation "
    "over methods, with its p value. About a dozen methods with much else in common cannot establish a cause, and a "
    "lower loss changes the gradients too.",
)
def scatter(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw a point per method, a panel per property of its gradients."""
    table = finite(table, "eval_loss", "No captured run is complete.")
    wide = layout.columns > 2
    key_columns, height = (5, 2.7) if wide else (2, 6.5)
    rows_of_key = -(-len(table) // key_columns)
    figure = Figure(figsize=(layout.width, height + 0.2 * rows_of_key), layout="constrained")
    axes = figure.subplots(1 if wide else len(_PANELS), len(_PANELS) if wide else 1, sharey=True)
    styles = [point_style(place) for place in range(len(table))]
    key = [Line2D([], [], label=shown(method), **style) for method, style in zip(table["method"], styles, strict=True)]
    for ax, (column, label) in zip(axes, _PANELS.items(), strict=True):
        for x, y, style in zip(table[column], table["eval_loss"], styles, strict=True):
            ax.plot(x, y, **style)
        if table[column].min() > 0 and table[column].max() > 10 * table[column].min():
            log_axis(ax, x=True, low=float(table[column].min()), high=float(table[column].max()))
        rho, p = table[f"rho_{column}"].iloc[0], table[f"p_{column}"].iloc[0]
        chance = "p < 0.01" if p < 0.01 else f"p = {p:.2f}"
        ax.set_title("" if rho != rho else f"ρ = {rho:+.2f} ({chance})")
        ax.set_xlabel(label)
    axes[0].set_ylabel("held-out loss")
    figure.legend(handles=key, loc="outside lower center", ncols=key_columns)
    return figure


QUANTITY = Quantity(
    title="energy, flatness and loss",
    measure=measure,
    pictures={"relation": scatter},
    columns={
        "method": "str", "eval_loss": "float",
        **{f"{of}{name}": "float" for name in _PANELS for of in ("", "rho_", "p_")},
    },
    variants=methods,
    captured=lambda profile: dict.fromkeys(profile.methods, 1),
)  # fmt: skip
