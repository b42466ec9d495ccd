"""Optimizers side by side: the same model, data, seeds and budget, the learning rate tuned for each.

A comparison is a directory::

    out_dir/
      comparison.json           what all cells have in common, the methods and the cells
      cells/<name>/             the run directory of a cell; <name>.json says what became of it, <name>.log what it said
      results.parquet           one row per cell, whatever became of it
      curves.parquet            one row per step of every cell
      table.csv, table.tex      one row per method, at its best learning rate
      figures/  report.html

``import subspace_lab.studies.optimizers`` is cheap: torch and pandas are imported when a name is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from subspace_lab.studies.optimizers.check import check_plan
    from subspace_lab.studies.optimizers.comparison import Comparison
    from subspace_lab.studies.optimizers.statistics import summary
    from subspace_lab.studies.optimizers.sweep import ComparisonInterrupted, compare

__all__ = ["Comparison", "ComparisonInterrupted", "check_plan", "compare", "summary"]

_LATE = {
    "Comparison": "comparison",
    "ComparisonInterrupted": "sweep",
    "check_plan": "check",
    "compare": "sweep",
    "summary": "statistics",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
