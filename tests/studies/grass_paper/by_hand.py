"""Tables made by hand, and a store that reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from subspace_lab.studies.grass_paper.profiles import PROFILES, Profile

T1, T2 = 12.706204736432095, 4.302652729911275  # Student's t at 97.5 %, one and two degrees of freedom


class Tables:
    """What a measure needs of a store: tables by name, and the profile."""

    def __init__(self, profile: Profile | None = None, path: Path = Path(), **tables: pd.DataFrame) -> None:
        self.profile, self.path, self.tables = profile or PROFILES["cpu"], path, tables

    def read(self, name: str) -> pd.DataFrame:
        return self.tables.get(name, pd.DataFrame())


def table(columns: str, *rows: Sequence[Any]) -> pd.DataFrame:
    """A table by the names of its columns and its rows."""
    return pd.DataFrame([list(row) for row in rows], columns=columns.split())


def trainings(losses: Mapping[str, Mapping[float, Sequence[float]]]) -> pd.DataFrame:
    """Complete cells by method and learning rate, with a loss for seed 0, 1, ...; the other columns follow from it."""
    rows = [
        {"cell": f"{method}_{lr:g}_{seed}", "method": method, "lr": lr, "seed": seed, "status": "complete",
         "captured": False,
         "eval_loss": loss, "train_loss": loss - 0.25, "refresh_s": 2 * loss, "wall_s": 10 * loss, "step_s": loss / 8,
         "refresh_share": loss / 16}
        for method, grid in losses.items() for lr, of_seeds in grid.items() for seed, loss in enumerate(of_seeds)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def records(found: pd.DataFrame, columns: str) -> list[tuple[Any, ...]]:
    """The rows of some columns, in the order of the table."""
    return [tuple(row) for row in found[columns.split()].astype(object).to_numpy().tolist()]
