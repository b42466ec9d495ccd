"""Fig. 1: how much of the gradient a core of rank r holds, over training and over depth, beside noise."""

from __future__ import annotations

import numpy as np
import pandas as pd

from subspace_lab.studies.grass_paper.captures import ENERGY
from subspace_lab.studies.grass_paper.store import Store
from subspace_lab.studies.grass_paper.variants import CAPTURED


def measure(store: Store) -> pd.DataFrame:
    """The energy ratios of AdamW's captured runs.

    Args:
        store: The tables.

    Returns:
        One row per (seed, step, kind, depth, rank): m, ratio, and as ratios null_noise (the own top-r space of Gaussian
        noise) and null_isotropic (any fixed basis).
    """
    table = store.read(ENERGY)
    if table.empty:
        return table
    rows = table[table["method"] == f"{CAPTURED}adamw"]
    nulls = {name: np.sqrt(rows[name]) for name in ("null_noise", "null_isotropic")}
    columns = ["seed", "step", "kind", "depth", "rank", "m", "ratio", "null_noise", "null_isotropic"]
    return rows.assign(**nulls)[columns].reset_index(drop=True)
