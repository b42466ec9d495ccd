"""What is measured in captured runs: energy by rank, the derivative of the subspace error, and principal angles."""

from __future__ import annotations

from typing import Any

import pandas as pd

from subspace_lab.analysis import curvature, energy
from subspace_lab.analysis.angle_histograms import angle_histograms
from subspace_lab.runs import Run
from subspace_lab.studies.grass_paper.quantity import PaperStore

ENERGY, TANGENT, ANGLES = "captured_energy", "captured_tangent", "captured_angles"
_ENERGY = {"step": "int", "kind": "str", "depth": "int", "rank": "int", "m": "int", "n": "int", "ratio": "float",
           "null_isotropic": "float", "null_noise": "float"}  # fmt: skip
_TANGENT = {"step": "int", "kind": "str", "depth": "int", "rank": "int", "lag_steps": "int", "index": "int",
            "singular_value": "float", "normalized": "float", "null_noise": "float"}  # fmt: skip
_ANGLES = {"kind": "str", "m": "int", "rank": "int", "lag_steps": "int", "bin_low": "float", "bin_high": "float",
           "count": "int", "density": "float", "null_density": "float"}  # fmt: skip
_CELL = {"cell": "str", "method": "str", "seed": "int"}
COLUMNS = {ENERGY: _ENERGY | _CELL, TANGENT: _TANGENT | _CELL, ANGLES: _ANGLES | _CELL}
TOP = 20
_LAGS = (1, 4, 16)  # in captures


def absorb(store: PaperStore, rows: pd.DataFrame) -> None:
    """Measure those captured runs that have become complete, by the rows of their trials, and add the tables."""
    for row in rows[rows["captured"]].to_dict("records"):
        run = Run.open(store.trials_dir / row["cell"])
        width = int(run.layers[["rows", "cols"]].min(axis=1).median())
        ranks = sorted({max(1, width // share) for share in store.profile.shares} | {store.profile.rank})
        own = energy(run, ranks=ranks, lags=())
        tangent = curvature(run, rank=max(1, width // 4), top=TOP)  # the habit of the field
        about = {name: row[name] for name in _CELL}
        store.add(ENERGY, _about(own[list(_ENERGY)], about))
        store.add(TANGENT, _about(tangent[list(_TANGENT)], about))
        if row["method"] == "adamw":
            lags = [lag for lag in _LAGS if lag < len(run.steps)]
            store.add(ANGLES, _about(angle_histograms(run, rank=store.profile.rank, lags=lags), about))


def _about(table: pd.DataFrame, about: dict[str, Any]) -> pd.DataFrame:
    whole = {name: "int32" for name in ("step", "depth", "rank", "m", "n", "index", "lag_steps") if name in table}
    return table.assign(**about, kind=table["kind"].astype(str)).astype(whole)
