"""What is measured in captured runs: energy by rank, and the derivative of the subspace error."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from subspace_lab.analysis import curvature, energy
from subspace_lab.runs import Run
from subspace_lab.studies.grass_paper import projection_angles
from subspace_lab.studies.grass_paper.store import Store
from subspace_lab.studies.grass_paper.variants import CAPTURED
from subspace_lab.studies.optimizers.cells import Cell

ENERGY, TANGENT, ANGLES = "captured_energy", "captured_tangent", "captured_angles"
_ENERGY = ("step", "kind", "depth", "rank", "m", "n", "ratio", "null_isotropic", "null_noise")
_TANGENT = ("step", "kind", "depth", "rank", "lag_steps", "index", "singular_value", "normalized", "null_noise")
TOP = 20
_LAGS = (1, 4, 16)  # in captures


def absorb(store: Store, cells: Sequence[Cell]) -> None:
    """Measure captured runs that are complete, and take what was measured into the tables.

    Args:
        store: The tables.
        cells: Their cells.
    """
    for cell in cells:
        run = Run.open(store.cells_dir / cell.name)
        width = int(run.layers[["rows", "cols"]].min(axis=1).median())
        ranks = sorted({max(1, width // share) for share in store.profile.shares} | {cell_rank(store)})
        own = energy(run, ranks=ranks, lags=())
        tangent = curvature(run, rank=max(1, width // 4), top=TOP)  # the habit of the field
        store.add(ENERGY, _about(own[list(_ENERGY)], cell))
        store.add(TANGENT, _about(tangent[list(_TANGENT)], cell))
        if cell.method == f"{CAPTURED}adamw":
            lags = [lag for lag in _LAGS if lag < len(run.steps)]
            store.add(ANGLES, _about(projection_angles.measure(run, rank=cell_rank(store), lags=lags), cell))


def cell_rank(store: Store) -> int:
    """The rank that the methods use, at which energies and derivatives are related to their losses."""
    from subspace_lab.training import preset

    config = store.profile.config
    assert config.preset is not None
    return config.rank or preset(config.preset).usual_rank


def _about(table: pd.DataFrame, cell: Cell) -> pd.DataFrame:
    whole = {name: "int32" for name in ("step", "depth", "rank", "m", "n", "index", "lag_steps") if name in table}
    named = table.assign(cell=cell.name, method=cell.method, seed=cell.seed, kind=table["kind"].astype(str))
    return named.astype(whole)
