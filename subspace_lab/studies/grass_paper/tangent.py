"""Fig. 2: the leading singular values of the derivative of the subspace error, raw and normalized."""

from __future__ import annotations

import pandas as pd

from subspace_lab.studies.grass_paper.captures import TANGENT
from subspace_lab.studies.grass_paper.store import Store
from subspace_lab.studies.grass_paper.variants import CAPTURED

_MOMENTS = 3  # of training at which they are shown


def measure(store: Store) -> pd.DataFrame:
    """Early, in the middle and at the end of AdamW's captured runs, means over the layers of a kind.

    Args:
        store: The tables.

    Returns:
        One row per (seed, step, kind, index): rank, lag_steps (age of the basis), singular_value, normalized (divided
        by ||G||_F^2) and null_noise (normalized, of Gaussian noise).
    """
    table = store.read(TANGENT)
    if table.empty:
        return table
    rows = table[table["method"] == f"{CAPTURED}adamw"]
    steps = sorted(rows["step"].unique())
    shown = sorted({steps[round(place * (len(steps) - 1) / (_MOMENTS - 1))] for place in range(_MOMENTS)})
    keys = ["seed", "step", "kind", "index", "rank", "lag_steps"]
    values = ["singular_value", "normalized", "null_noise"]
    return rows[rows["step"].isin(shown)].groupby(keys, as_index=False, sort=False)[values].mean()
