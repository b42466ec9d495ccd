"""Where in ``OUT_DIR`` the files of a cell lie.

::

    OUT_DIR/
      study.json                  configuration, cells and jobs
      cells/<label>-<hash12>/     a run directory where something was trained
      cells/<label>-<hash12>.json its record
      weights/<hash12>/           the model of a job: model.safetensors, config.json, tokenizer
      outcomes/<hash12>.parquet   what a model replied in an evaluation, and how it was judged
      results.parquet, ...        the tables, all of them made of the cells
      table.csv, table.tex        the headline
      figures/, report.html
"""

from __future__ import annotations

from pathlib import Path

_SHORT = 12


def weights_dir(cell: Path) -> Path:
    """Where the model of a cell lies, named by the hash at the end of the cell's name."""
    return cell.parent.parent / "weights" / cell.name[-_SHORT:]


def outcomes_file(cell: Path) -> Path:
    """Where the outcomes of an evaluation lie."""
    return cell.parent.parent / "outcomes" / f"{cell.name[-_SHORT:]}.parquet"
