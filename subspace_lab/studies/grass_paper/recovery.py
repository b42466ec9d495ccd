"""``||L|| / ||G||`` over training by rule, with the limiter and without, and what lies in the bulk."""

from __future__ import annotations

import pandas as pd

from subspace_lab.studies.grass_paper.cells import best_rows
from subspace_lab.studies.grass_paper.store import CELLS, CURVES, Store
from subspace_lab.studies.grass_paper.variants import ablation_cells, part_name


def measure(store: Store) -> pd.DataFrame:
    """The shares over the steps, of the cells with projection-aware moments at their best learning rates.

    Args:
        store: The tables.

    Returns:
        One row per (rule, recovery, seed, step): bulk_share ||G - S A|| / ||G||, recovery_share ||L|| / ||G||, limiter.
    """
    parts = pd.DataFrame(
        [(part_name(*parts), parts[0], parts[2]) for parts in ablation_cells(store.profile) if parts[1] == "transport"],
        columns=["method", "rule", "recovery"],
    )
    rows = best_rows(store.read(CELLS), list(parts["method"]))
    if rows.empty:
        return pd.DataFrame()
    shares = ["bulk_share", "recovery_share", "limiter"]
    curves = store.read(CURVES)[["cell", "seed", "step", *shares]].dropna(subset=["bulk_share"])
    found = parts.merge(rows[["method", "cell"]], on="method").merge(curves, on="cell")
    return found.drop(columns=["cell", "method"])
