"""GrassWalk's sensitivity to rank, refresh interval, walk step, limiter and scale."""

from __future__ import annotations

import pandas as pd

from subspace_lab.studies.grass_paper.captures import cell_rank
from subspace_lab.studies.grass_paper.cells import base_config, best_rows
from subspace_lab.studies.grass_paper.store import CELLS, Store
from subspace_lab.studies.grass_paper.variants import sensitivity_of


def measure(store: Store) -> pd.DataFrame:
    """Losses, each with one setting changed and the learning rate tuned again.

    Args:
        store: The tables.

    Returns:
        One row per (setting, value, seed): usual (whether it is GrassWalk as it is elsewhere), lr, edge, eval_loss;
        zeta's value is NaN for none. The usual value stands in the rows of every setting.
    """
    usual = {
        "rank": cell_rank(store), "update_interval": base_config(store.profile).update_interval or 200,
        "walk_step": 0.1, "zeta": 1.01, "scale": 1.0,
    }  # fmt: skip
    varied = [(name, setting, value, False) for name, (setting, value) in sensitivity_of(store.profile).items()]
    varied += [("grasswalk", setting, value, True) for setting, value in usual.items()]
    parts = pd.DataFrame(varied, columns=["method", "setting", "value", "usual"]).astype({"value": "float64"})
    rows = best_rows(store.read(CELLS), list(parts["method"]))
    if rows.empty:
        return pd.DataFrame()
    found = parts.merge(rows[["method", "lr", "edge", "seed", "eval_loss"]], on="method")
    return found.sort_values(["setting", "value", "seed"], ignore_index=True)
