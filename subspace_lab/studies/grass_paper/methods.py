"""Tables 1 and 2: every method and AdamW, with losses, bytes by formula and as measured, and time."""

from __future__ import annotations

import pandas as pd

from subspace_lab.runs.files import publish
from subspace_lab.studies.grass_paper.store import CELLS, TABLES, Store
from subspace_lab.studies.grass_paper.variants import methods
from subspace_lab.studies.optimizers.statistics import summary
from subspace_lab.studies.optimizers.words import latex_table


def measure(store: Store) -> pd.DataFrame:
    """One row per method; CSV and LaTeX are written beside it.

    Args:
        store: The tables.

    Returns:
        As `subspace_lab.studies.optimizers.summary` has it; the lowest held-out loss comes first.
    """
    cells = store.read(CELLS)
    cells = cells[cells["method"].isin(methods(store.profile))] if len(cells) else cells
    if cells.empty or not (cells["status"] == "complete").any():
        return pd.DataFrame()
    table = summary(cells)
    with publish(store.path / TABLES / "tables.csv") as aside:
        table.to_csv(aside, index=False)
    with publish(store.path / TABLES / "tables.tex") as aside:
        aside.write_text(latex_table(table), encoding="utf-8")
    return table
