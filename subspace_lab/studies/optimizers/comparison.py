"""A comparison on disk: its tables, and everything that is made from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import pandas as pd

from subspace_lab._paths import local_path
from subspace_lab.figures.all import save_all
from subspace_lab.runs import RunError
from subspace_lab.runs.files import publish
from subspace_lab.runs.tables import read_table, write_table
from subspace_lab.studies.optimizers import tables
from subspace_lab.studies.optimizers.figures import FIGURES, Tables
from subspace_lab.studies.optimizers.manifest import read_comparison, stored_cells
from subspace_lab.studies.optimizers.report import write_comparison_report
from subspace_lab.studies.optimizers.statistics import summary
from subspace_lab.studies.optimizers.tables import curves_table, results_table
from subspace_lab.studies.optimizers.words import latex_table

CELLS = "cells"
RESULTS, CURVES = "results.parquet", "curves.parquet"


class Comparison:
    """A comparison of optimizers, opened by `Comparison.open`.

    Attributes:
        path: Its directory.
        manifest: The content of ``comparison.json``.
        results: One row per cell, whatever became of it.
        curves: One row per step of every cell.
        table: One row per method, at its best learning rate; see `summary`.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], results: pd.DataFrame, curves: pd.DataFrame) -> None:
        self.path, self.manifest = path, manifest
        self.results, self.curves = results, curves
        self.table = summary(results)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a comparison for reading.

        Args:
            path: Its directory.

        Returns:
            The comparison.

        Raises:
            RunError: If there is none, or its tables cannot be read.
        """
        path = local_path(path, error=RunError)
        manifest = read_comparison(path)
        results, curves = (
            read_table(path / name, "run the same subspace-lab compare again", columns)
            for name, columns in ((RESULTS, tables.RESULTS), (CURVES, tables.CURVES))
        )
        if results.empty:
            raise RunError(f"{path / RESULTS} has no rows; run the same subspace-lab compare again")
        return cls(path, manifest, results, curves)

    @classmethod
    def collect(cls, path: Path) -> Self:
        """Make the tables of a comparison from its cells, as far as these are.

        Args:
            path: Its directory.

        Returns:
            The comparison.

        Raises:
            RunError: If something cannot be read or written.
        """
        manifest = read_comparison(path)
        cells = stored_cells(manifest)
        made = cls(path, manifest, results_table(path / CELLS, cells), curves_table(path / CELLS, cells))
        for name, table in ((RESULTS, made.results), (CURVES, made.curves)):
            write_table(path / name, table)
        with publish(path / "table.csv") as aside:
            made.table.to_csv(aside, index=False)
        with publish(path / "table.tex") as aside:
            aside.write_text(latex_table(made.table), encoding="utf-8")
        return made

    @property
    def tables(self) -> Tables:
        """What the figures are drawn from."""
        return Tables(self.results, self.curves, self.table)

    def __repr__(self) -> str:
        complete = int((self.results["status"] == "complete").sum())
        return f"Comparison({str(self.path)!r}: {len(self.table)} methods, {complete} of {len(self.results)} cells)"

    def draw(self) -> Path:
        """Draw the figures from the tables, and write the report.

        Returns:
            ``report.html``.

        Raises:
            RunError: If a file cannot be written.
        """
        save_all(FIGURES, self.tables, self.path / "figures")
        return write_comparison_report(self.path, self.manifest, self.tables)
