"""A comparison on disk: its tables, and everything that is made from them.

::

    out_dir/
      comparison.json           what all trials have in common, and the methods
      cells/<name>/             the run directory of a trial; <name>.json has its outcome, <name>.log what it printed
      results.parquet           one row per trial, whatever became of it
      curves.parquet            one row per step of every trial
      table.csv, table.tex      one row per method, at its best setting
      figures/  report.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd

from subspace_lab._paths import local_path
from subspace_lab._reading import typed
from subspace_lab.experiments.present import latex_table
from subspace_lab.experiments.results import MEASURED, measured_row
from subspace_lab.experiments.statistics import summary
from subspace_lab.experiments.store import ADVICE, CURVES, RESULTS, Kind, Store
from subspace_lab.experiments.trial import Trial
from subspace_lab.experiments.variants import OF_TRAININGS, Trainings, factors_of
from subspace_lab.figures.all import save_all
from subspace_lab.runs import RunError
from subspace_lab.runs.files import publish
from subspace_lab.runs.tables import read_table
from subspace_lab.studies.optimizers.figures import FIGURES, Tables
from subspace_lab.studies.optimizers.report import write_comparison_report
from subspace_lab.training import TrainConfig


@dataclass(frozen=True)
class _Cell:
    """A training in the manifest of format 1."""

    method: str
    lr: float
    seed: int
    config: dict  # type: ignore[type-arg]


def _upgrade(path: Path, manifest: dict[str, Any]) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """Format 1 had its trainings in the manifest, with their configurations."""
    file = path / COMPARISON.manifest
    for name, kind in (("config", dict), ("methods", dict), ("cells", list)):
        if not isinstance(manifest.get(name), kind):
            raise RunError(f"{file} has no valid {name!r}; restore it from a copy")
    try:
        base = TrainConfig.from_dict(manifest["config"])
        make = Trainings(base, manifest["methods"], "")
        trials = [_old_trial(typed(_Cell, row), make) for row in manifest["cells"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{file} is of another release ({error}); choose another directory") from error
    files = {name: path / f"{name}.parquet" for name in (RESULTS, CURVES)}
    tables = {name: read_table(file, ADVICE) for name, file in files.items() if file.is_file()}
    known = {row["cell"]: row for row in tables[RESULTS].to_dict("records")} if RESULTS in tables else {}
    rows = [
        {**_old_values(trial, path / COMPARISON.trials, row["cell"], known), **trial.factors, **row, "format": 1}
        for trial, row in trials
    ]
    columns = COMPARISON.schemas[RESULTS]
    tables[RESULTS] = pd.DataFrame(rows, columns=[*columns]).astype(columns)
    return {"config": base.to_dict(), "methods": identity_of(manifest["methods"])}, tables


def _old_trial(cell: _Cell, make: Trainings) -> tuple[Trial, dict[str, str]]:
    """The same training today, and its directory; it has a hash where its configuration is another today."""
    stored = TrainConfig.from_dict(cell.config)
    try:
        trial = make(cell.method, {"lr": cell.lr}, cell.seed, "evaluate")
    except ValueError:  # its plan, say, is not where it was: what was measured can be read all the same
        factors, config = factors_of(cell.method, stored), stored.to_dict()
        content = {**config, "optimizer_options": {}}  # without the content of a plan there is no formula
        trial = Trial({**factors, "phase": "evaluate"}, "train", config, content)
    name = f"{re.sub(r'[^A-Za-z0-9_.=]+', '-', cell.method)}_lr{cell.lr:g}_seed{cell.seed}"
    return trial, {"cell": name, "trial": "" if stored.to_dict() == trial.config else trial.hash}


def _old_values(trial: Trial, trials_dir: Path, cell: str, known: Mapping[Any, Mapping[Any, Any]]) -> dict[str, Any]:
    """What was measured, from its row in the table of format 1, or from its directory where it has none."""
    row = known.get(cell)
    if row is None:
        return {**measured_row(trials_dir, cell), **COMPARISON.describe(trial)}
    names = {*MEASURED, COMPARISON.metric.name, *COMPARISON.columns} - {"format", "steps_done"}
    done = row.get("steps_done", row["steps"])  # a table of format 2 where the upgrade was killed
    return {**{name: row[name] for name in names}, "steps_done": done}


COMPARISON = Kind(
    "comparison", "comparison.json", "cells", "a comparison",
    **OF_TRAININGS, grows="methods", upgrade=_upgrade,
)  # fmt: skip


def identity_of(methods: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Settings by method as the manifest has them: a plan by the name of its file, whose content is the trials'."""
    return {
        name: {key: Path(str(value)).name if key == "plan" else value for key, value in settings.items()}
        for name, settings in methods.items()
    }


class Comparison(Tables):
    """A comparison of optimizers, opened by `Comparison.open`.

    Attributes:
        path: Its directory.
        manifest: The content of ``comparison.json``.
        results: One row per trial, whatever became of it.
        curves: One row per step of every trial.
        table: One row per method, at its best setting; see `subspace_lab.experiments.statistics.summary`.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store.results, store.curves, summary(store.results))
        self.path, self.manifest = store.path, store.manifest

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a comparison for reading; RunError if the directory holds none, or its tables cannot be read."""
        path = local_path(path, error=RunError)
        store = Store.open(path, COMPARISON)
        if store.results.empty:
            raise RunError(f"{path / RESULTS}.parquet has no rows; run the same subspace-lab compare again")
        return cls(store)

    def __repr__(self) -> str:
        complete = int((self.results["status"] == "complete").sum())
        return f"Comparison({str(self.path)!r}: {len(self.table)} methods, {complete} of {len(self.results)} trials)"

    def draw(self) -> Path:
        """Write the table of methods, the figures and ``report.html``, which is returned."""
        with publish(self.path / "table.csv") as aside:
            self.table.to_csv(aside, index=False)
        with publish(self.path / "table.tex") as aside:
            aside.write_text(latex_table(self.table), encoding="utf-8")
        save_all(FIGURES, self, self.path / "figures")
        return write_comparison_report(self.path, self.manifest["settings"], self.manifest["environment"], self)
