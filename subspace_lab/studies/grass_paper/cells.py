"""Which cells the experiments need, and what the tables keep of those that came to their end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from subspace_lab.experiments.outcome import read_outcome
from subspace_lab.studies.grass_paper import captured_tables
from subspace_lab.studies.grass_paper.profiles import Profile
from subspace_lab.studies.grass_paper.store import CELLS, CURVES, Store
from subspace_lab.studies.grass_paper.variants import CAPTURED, Variants
from subspace_lab.studies.optimizers.cells import Cell, cells_of, common_config, parse_methods
from subspace_lab.studies.optimizers.statistics import best_lr
from subspace_lab.studies.optimizers.tables import CURVES as CURVE_COLUMNS, RESULTS, curves_table, results_table
from subspace_lab.training import TrainConfig

ENDED = ("complete", "diverged")  # a cell that failed is begun again by the next call
_POINTS = 50  # of a curve
COLUMNS = {CELLS: RESULTS, CURVES: {**CURVE_COLUMNS, "step": "float"}}


def base_config(profile: Profile) -> TrainConfig:
    """What all cells of a profile have in common."""
    return common_config(profile.config)


def tuning_cells(variants: Variants, profile: Profile) -> list[Cell]:
    """The cells that tune the learning rate: all of the grid on the first seed.

    Args:
        variants: Settings by name.
        profile: Says the grid.

    Returns:
        The cells.
    """
    return cells_of(parse_methods(variants), profile.lrs, 1, base_config(profile))


def seed_cells(variants: Variants, cells: pd.DataFrame, profile: Profile) -> list[Cell]:
    """The cells that measure: all seeds at the best learning rate of each variant that was tuned.

    Args:
        variants: Settings by name.
        cells: The table of cells.
        profile: Says how many seeds.

    Returns:
        The cells, by seed.
    """
    best = best_rates(cells)
    found = [
        cell
        for name, settings in variants.items()
        if name in best
        for cell in cells_of(parse_methods({name: settings}), [best[name]], profile.seeds, base_config(profile))
    ]
    return sorted(found, key=lambda cell: cell.seed)


def captured_cells(variants: Variants, seeds: Mapping[str, int], cells: pd.DataFrame, profile: Profile) -> list[Cell]:
    """The captured runs: of some methods, at the learning rate that is best for them without captures.

    Args:
        variants: Settings by the names of the captured runs.
        seeds: How many, by method.
        cells: The table of cells.
        profile: The scale.

    Returns:
        The cells.
    """
    best = best_rates(cells)
    return [
        cell
        for method, number in seeds.items()
        if method in best
        for cell in cells_of(
            parse_methods({CAPTURED + method: variants[CAPTURED + method]}), [best[method]], number,
            base_config(profile),
        )
    ]  # fmt: skip


def best_rates(cells: pd.DataFrame) -> dict[str, float]:
    """The best learning rate of every method in the table of cells."""
    if cells.empty:
        return {}
    return {str(method): best_lr(rows) for method, rows in cells.groupby("method")}


def best_rows(cells: pd.DataFrame, methods: Sequence[str] | None = None) -> pd.DataFrame:
    """The complete cells of each method at its best learning rate.

    Args:
        cells: The table of cells.
        methods: Which, all by default.

    Returns:
        Their rows, with ``edge``: whether the rate is the lowest or the highest of the method's grid.
    """
    if cells.empty:
        return cells.assign(edge="") if "method" in cells else pd.DataFrame()
    best = best_rates(cells)
    rows = cells[(cells["status"] == "complete") & (cells["lr"] == cells["method"].map(best))]
    if methods is not None:
        rows = rows[rows["method"].isin(list(methods))]
    lrs = cells.groupby("method")["lr"].agg(["min", "max"])
    low, high = rows["method"].map(lrs["min"]), rows["method"].map(lrs["max"])
    edge = pd.Series("", index=rows.index).mask(rows["lr"] == low, "low").mask(rows["lr"] == high, "high")
    return rows.assign(edge=edge.mask(low == high, "only"))


def missing(store: Store, cells: Sequence[Cell]) -> list[Cell]:
    """Those of some cells that the tables do not have."""
    table = store.read(CELLS)
    there = set() if table.empty else set(table.loc[table["status"].isin(ENDED), "cell"])
    return [cell for cell in cells if cell.name not in there]


def absorb(store: Store, cells: Sequence[Cell]) -> None:
    """Take the rows of cells that have come to their end into the tables.

    Args:
        store: The tables.
        cells: Cells that may have.
    """
    states = {cell.name: read_outcome(store.cells_dir, cell.name).status for cell in cells}
    ended = [cell for cell in missing(store, cells) if states[cell.name] in {*ENDED, "failed"}]
    if not ended:
        return
    complete = [cell for cell in ended if states[cell.name] == "complete"]
    captured_tables.absorb(store, [cell for cell in complete if cell.method.startswith(CAPTURED)])
    store.add(CURVES, _thinned(store.cells_dir, ended))
    store.add(CELLS, results_table(store.cells_dir, ended))  # last: where its row is, all of a cell is there


def _thinned(cells_dir: Path, cells: Sequence[Cell]) -> pd.DataFrame:
    """Curves as means over blocks of steps."""
    curves = curves_table(cells_dir, cells).astype({"cell": str, "method": str})
    steps = curves.groupby("cell")["step"].transform("max") + 1
    width = -(-steps // _POINTS)
    keys = ["cell", "method", "lr", "seed"]
    blocks = curves.assign(block=curves["step"] // width).groupby([*keys, "block"], sort=False, as_index=False).mean()
    values = [name for name in blocks.columns if name not in {*keys, "block"}]
    return blocks.drop(columns="block").astype(dict.fromkeys(values, "float32"))
