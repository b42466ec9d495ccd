"""Rows of directories that an earlier release wrote: format 1 knew trainings by method, learning rate and seed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from subspace_lab.experiments.results import MEASURED, measured_row
from subspace_lab.experiments.store import Kind
from subspace_lab.experiments.trial import Trial


@dataclass(frozen=True)
class OldTrial:
    """A trial of format 1.

    Attributes:
        cell: Its directory.
        trial: The same training today, for its factors.
        is_same: Whether its configuration is still the same; otherwise its row is kept and matches no trial.
    """

    cell: str
    trial: Trial
    is_same: bool = True


def old_results(
    kind: Kind, trials: Iterable[OldTrial], trials_dir: Path, table: pd.DataFrame | None = None
) -> pd.DataFrame:
    """The result table of format 1: a row per trial, of `table` where it has one, otherwise of its directory."""
    known = {} if table is None else {row["cell"]: row for row in table.to_dict("records")}
    measured = {*MEASURED, kind.metric.name, *kind.columns} - {"format", "steps_done"}
    rows = []
    for one in trials:
        row = known.get(one.cell)
        if row is None:
            found = {**measured_row(trials_dir, one.cell, kind.metric), **kind.describe(one.trial)}
        else:
            done = row.get("steps_done", row["steps"])  # a table of format 2 where the upgrade was killed
            found = {**{name: row[name] for name in measured}, "steps_done": done}
        factors = {name: one.trial.factors.get(name) for name in kind.factors}
        about = {"trial": "" if one.is_same else one.trial.hash, "cell": one.cell, "format": 1}
        rows.append({**found, **factors, **about})
    columns = kind.schemas["results"]
    return pd.DataFrame(rows, columns=[*columns]).astype(columns)
