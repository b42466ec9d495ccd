"""Whether methods whose gradients have more energy in the core, or a flatter derivative, reach a lower loss."""

from __future__ import annotations

import pandas as pd
from scipy import stats

from subspace_lab.studies.grass_paper.captures import ENERGY, TANGENT, cell_rank
from subspace_lab.studies.grass_paper.cells import best_rows
from subspace_lab.studies.grass_paper.store import CELLS, Store
from subspace_lab.studies.grass_paper.variants import CAPTURED

_LATE = 0.5  # of the training: what is measured before belongs to the steep beginning, which all methods share


def measure(store: Store) -> pd.DataFrame:
    """Energy and derivative in the second half of a captured run, beside the method's mean held-out loss.

    Args:
        store: The tables.

    Returns:
        One row per method: energy (mean ratio at the methods' rank), flatness (20th over 1st singular value of the
        derivative), steepness (the 1st, normalized), eval_loss; and, the same in every row, Spearman's correlation
        of the loss with each (rho_...) and its p value (p_...), NaN below four methods.
    """
    energies, tangents = store.read(ENERGY), store.read(TANGENT)
    rows = best_rows(store.read(CELLS))
    if energies.empty or tangents.empty or rows.empty:
        return pd.DataFrame()
    losses: pd.Series[float] = rows.groupby("method")["eval_loss"].mean()
    own = _late(energies[energies["rank"] == cell_rank(store)])
    table = pd.DataFrame({
        "energy": own.groupby("method")["ratio"].mean(),
        "flatness": _flatness(_late(tangents)),
        "steepness": _late(tangents[tangents["index"] == 0]).groupby("method")["normalized"].mean(),
    })
    table.index = table.index.str.removeprefix(CAPTURED)
    table = table.assign(eval_loss=losses).dropna().rename_axis("method").reset_index()
    for name in ("energy", "flatness", "steepness"):
        found = stats.spearmanr(table[name], table["eval_loss"]) if len(table) > 3 else None
        table[f"rho_{name}"] = float("nan") if found is None else float(found.statistic)
        table[f"p_{name}"] = float("nan") if found is None else float(found.pvalue)
    return table


def _late(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the second half, of the first seed."""
    rows: pd.DataFrame = table[(table["seed"] == 0) & (table["step"] >= _LATE * table["step"].max())]
    return rows


def _flatness(tangents: pd.DataFrame) -> pd.Series[float]:
    last = int(tangents["index"].max())
    keys = ["method", "step", "kind", "depth"]
    values = tangents[tangents["index"].isin([0, last])].pivot_table(index=keys, columns="index", values="normalized")
    ratio: pd.Series[float] = (values[last] / values[0]).groupby("method").mean()
    return ratio
