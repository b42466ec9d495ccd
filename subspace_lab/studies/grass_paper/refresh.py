"""Which share of the time of a training goes into subspaces."""

from __future__ import annotations

import pandas as pd

from subspace_lab.studies.grass_paper.cells import best_rows
from subspace_lab.studies.grass_paper.store import CELLS, Store
from subspace_lab.studies.grass_paper.variants import methods


def measure(store: Store) -> pd.DataFrame:
    """Times of all methods with a subspace, at their best learning rates.

    Args:
        store: The tables.

    Returns:
        One row per (method, seed): refresh_share, refresh_s, wall_s, step_s (median).
    """
    names = [name for name in methods(store.profile) if name.partition(" ")[0] not in {"adamw", "badam"}]
    rows = best_rows(store.read(CELLS), names)
    if rows.empty:
        return pd.DataFrame()
    columns = ["method", "seed", "refresh_share", "refresh_s", "wall_s", "step_s"]
    return rows[columns].sort_values(["method", "seed"], ignore_index=True)
