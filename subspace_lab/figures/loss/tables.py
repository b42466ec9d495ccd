"""The rows that these figures show: of the whole model, or of layers in panels by kind."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from subspace_lab.figures.axis import step_axis
from subspace_lab.figures.tables import AbsentError, panel_names, positions
from subspace_lab.runs import Run
from subspace_lab.runs.errors import in_shell
from subspace_lab.runs.tables import TABLES

_OPTION = {"hessian": "--hessian", "hessian_summary": "--hessian", "noise": "--noise"}
_MODEL = "model"


def of_model(run: Run, name: str) -> pd.DataFrame:
    """The rows of the whole model.

    Args:
        run: A run that was analysed.
        name: The table.

    Returns:
        The rows, by step.

    Raises:
        AbsentError: If the run has no such table, or nothing of the whole model.
    """
    table = _table(run, name)
    rows = table[table["layer"] == _MODEL]
    if rows.empty:
        raise AbsentError("The whole model was not measured.")
    return rows.sort_values("step", kind="stable")


def of_layers(run: Run, name: str, column: str) -> tuple[dict[str, pd.DataFrame], dict[str, int]]:
    """The rows of layers in blocks with a number in a column, by panel.

    Args:
        run: A run that was analysed.
        name: The table.
        column: What is drawn.

    Returns:
        Rows by panel in the order of the layer table, and where each panel stands in the run.

    Raises:
        AbsentError: If the run has no such table, or no such rows.
    """
    table = _table(run, name)
    rows = table[(table["layer"] != _MODEL) & (table["depth"] >= 0) & table[column].notna()]
    if rows.empty:
        raise AbsentError("No layer of a numbered block was measured, so there is no depth to compare over.")
    names, order = panel_names(run), positions(run)
    panels = rows["layer"].astype(str).map(lambda layer: names.get(layer, layer))
    for panel in panels:
        order.setdefault(panel, len(order))
    found: dict[str, pd.DataFrame] = dict(sorted(rows.groupby(panels), key=lambda item: order[item[0]]))
    return found, order


def depth_axis(ax: Axes, rows: pd.DataFrame) -> None:
    """Whole ticks on an axis of depths, with room around a single one."""
    low, high = int(rows["depth"].min()), int(rows["depth"].max())
    ax.set_xlim(low - 0.3, high + 0.3)
    step_axis(ax)


def error_bars(ax: Axes, x: Any, y: pd.Series, error: pd.Series, **style: Any) -> None:
    """A line with standard errors."""
    ax.errorbar(x, y, yerr=error.fillna(0), capsize=1.5, elinewidth=0.7, **style)


def _table(run: Run, name: str) -> pd.DataFrame:
    if not (run.path / "analysis" / f"{name}.parquet").is_file():
        raise AbsentError(f"Not measured yet; run: subspace-lab analyze {in_shell(run.path)} {_OPTION[name]}")
    table = run.table(name, TABLES.get(name))
    if table.empty:
        raise AbsentError("Nothing was measured.")
    return table
