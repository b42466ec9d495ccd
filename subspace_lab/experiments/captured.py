"""Tables of captured runs in a study: energy by rank, and the derivative of the subspace error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from subspace_lab.analysis import curvature, energy
from subspace_lab.runs import Run

ENERGY, TANGENT = "captured_energy", "captured_tangent"
ENERGY_COLUMNS = {
    "step": "int", "kind": "str", "depth": "int", "rank": "int", "m": "int", "n": "int", "ratio": "float",
    "null_isotropic": "float", "null_noise": "float",
}  # fmt: skip
TANGENT_COLUMNS = {
    "step": "int", "kind": "str", "depth": "int", "rank": "int", "lag_steps": "int", "index": "int",
    "singular_value": "float", "normalized": "float", "null_noise": "float",
}  # fmt: skip
TOP = 20
_MOMENTS = 3  # of training at which the derivative is shown


def width_of(run: Run) -> int:
    """The median of the smaller sides of a run's layers."""
    return int(run.layers[["rows", "cols"]].min(axis=1).median())


def energy_table(
    run: Run, about: Mapping[str, Any], *, shares: Iterable[int], ranks: Iterable[int] = ()
) -> pd.DataFrame:
    """How much of each gradient its own space of some ranks holds.

    Args:
        run: A captured run.
        about: Columns that say which run it is.
        shares: Ranks as m/r for the median width.
        ranks: Further ranks.

    Returns:
        `ENERGY_COLUMNS`, squares of the nulls, and `about`.
    """
    width = width_of(run)
    chosen = sorted({*(max(1, width // share) for share in shares), *ranks})
    return tell_apart(energy(run, ranks=chosen, lags=())[list(ENERGY_COLUMNS)], about)


def tangent_table(run: Run, about: Mapping[str, Any]) -> pd.DataFrame:
    """The largest singular values of the derivative of the subspace error, at a quarter of the median width.

    Args:
        run: A captured run.
        about: Columns that say which run it is.

    Returns:
        `TANGENT_COLUMNS` and `about`.
    """
    rank = max(1, width_of(run) // 4)  # the habit of the field
    return tell_apart(curvature(run, rank=rank, top=TOP)[list(TANGENT_COLUMNS)], about)


def tell_apart(table: pd.DataFrame, about: Mapping[str, Any]) -> pd.DataFrame:
    """A table of a run with the columns that say which run it is, and small integers."""
    whole = {name: "int32" for name in ("step", "depth", "rank", "m", "n", "index", "lag_steps") if name in table}
    return table.assign(**about, kind=table["kind"].astype(str)).astype(whole)


def energy_ratios(table: pd.DataFrame) -> pd.DataFrame:
    """Energies of captured runs with their nulls as ratios.

    Args:
        table: Of `energy_table`, with a seed.

    Returns:
        One row per (seed, step, kind, depth, rank): m, ratio, and as ratios null_noise (the own top-r space of Gaussian
        noise) and null_isotropic (any fixed basis).
    """
    nulls = {name: np.sqrt(table[name]) for name in ("null_noise", "null_isotropic")}
    columns = ["seed", "step", "kind", "depth", "rank", "m", "ratio", "null_noise", "null_isotropic"]
    return table.assign(**nulls)[columns].reset_index(drop=True)


def tangents_at_moments(table: pd.DataFrame) -> pd.DataFrame:
    """Derivatives early, in the middle and at the end of captured runs, means over the layers of a kind.

    Args:
        table: Of `tangent_table`, with a seed.

    Returns:
        One row per (seed, step, kind, index): rank, lag_steps (age of the basis), singular_value, normalized (divided
        by ||G||_F^2) and null_noise (normalized, of Gaussian noise).
    """
    steps = sorted(table["step"].unique())
    shown = {steps[round(place * (len(steps) - 1) / (_MOMENTS - 1))] for place in range(_MOMENTS)} if steps else set()
    keys = ["seed", "step", "kind", "index", "rank", "lag_steps"]
    values = ["singular_value", "normalized", "null_noise"]
    return table[table["step"].isin(shown)].groupby(keys, as_index=False, sort=False)[values].mean()
