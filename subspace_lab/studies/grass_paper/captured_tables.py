"""What is measured in captured runs: energy by rank, the derivative of the subspace error, and principal angles."""

from __future__ import annotations

import pandas as pd

from subspace_lab.analysis.angle_histograms import angle_histograms
from subspace_lab.experiments.captured import (
    ENERGY,
    ENERGY_COLUMNS,
    TANGENT,
    TANGENT_COLUMNS,
    energy_table,
    tangent_table,
    tell_apart,
)
from subspace_lab.runs import Run
from subspace_lab.studies.grass_paper.quantity import PaperStore

ANGLES = "captured_angles"
_ANGLES = {"kind": "str", "m": "int", "rank": "int", "lag_steps": "int", "bin_low": "float", "bin_high": "float",
           "count": "int", "density": "float", "null_density": "float"}  # fmt: skip
_CELL = {"cell": "str", "method": "str", "seed": "int"}
COLUMNS = {ENERGY: ENERGY_COLUMNS | _CELL, TANGENT: TANGENT_COLUMNS | _CELL, ANGLES: _ANGLES | _CELL}
_LAGS = (1, 4, 16)  # in captures


def absorb(store: PaperStore, rows: pd.DataFrame) -> None:
    """Measure those captured runs that have become complete, by the rows of their trials, and add the tables."""
    for row in rows[rows["captured"]].to_dict("records"):
        run = Run.open(store.trials_dir / row["cell"])
        about = {name: row[name] for name in _CELL}
        store.add(ENERGY, energy_table(run, about, shares=store.profile.shares, ranks=[store.profile.rank]))
        store.add(TANGENT, tangent_table(run, about))
        if row["method"] == "adamw":
            lags = [lag for lag in _LAGS if lag < len(run.steps)]
            store.add(ANGLES, tell_apart(angle_histograms(run, rank=store.profile.rank, lags=lags), about))
