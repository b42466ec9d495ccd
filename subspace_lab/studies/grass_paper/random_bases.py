"""Random bases of four kinds: walks, walks with occasional jumps, jumps (QR of a Gaussian), random coordinates."""

from __future__ import annotations

import pandas as pd

from subspace_lab.studies.grass_paper.cells import best_rows
from subspace_lab.studies.grass_paper.store import CELLS, Store
from subspace_lab.studies.grass_paper.variants import RANDOM_RULES, part_name


def measure(store: Store) -> pd.DataFrame:
    """Losses and refresh times, all with projection-aware moments and recovery scaling.

    Args:
        store: The tables.

    Returns:
        One row per (rule, recovery, seed): method, lr, edge, eval_loss, refresh_share.
    """
    parts = pd.DataFrame(
        [(part_name(rule, "transport", free), rule, free) for free in ("limited", "free") for rule in RANDOM_RULES],
        columns=["method", "rule", "recovery"],
    )
    rows = best_rows(store.read(CELLS), list(parts["method"]))
    if rows.empty:
        return pd.DataFrame()
    return parts.merge(rows[["method", "lr", "edge", "seed", "eval_loss", "refresh_share"]], on="method")
