"""Fig. 3: rule x transported moments (AO) x recovery scaling (RS), and a basis that is never refreshed as null."""

from __future__ import annotations

import pandas as pd

from subspace_lab.studies.grass_paper.cells import best_rows
from subspace_lab.studies.grass_paper.store import CELLS, CURVES, Store
from subspace_lab.studies.grass_paper.variants import ablation_cells, part_name

_SHARES = ["bulk_share", "recovery_share", "limiter", "limited_share"]


def measure(store: Store) -> pd.DataFrame:
    """The losses of all parts at their best learning rates.

    Args:
        store: The tables.

    Returns:
        One row per (rule, moments, recovery, seed): method, lr, edge, eval_loss, train_loss, and means over the steps
        that were looked at of bulk_share, recovery_share, limiter (the factor that the limiter applied) and
        limited_share.
    """
    parts = pd.DataFrame(
        [(part_name(*parts), *parts) for parts in ablation_cells(store.profile)],
        columns=["method", "rule", "moments", "recovery"],
    )
    rows = best_rows(store.read(CELLS), list(parts["method"]))
    if rows.empty:
        return pd.DataFrame()
    shares = store.read(CURVES).groupby("cell", as_index=False)[_SHARES].mean()
    found = parts.merge(rows[["method", "cell", "lr", "edge", "seed", "eval_loss", "train_loss"]], on="method")
    return found.merge(shares, on="cell", how="left").drop(columns="cell")
