"""The rows that the figures show: selecting and grouping, nothing else.

A *panel* is what is drawn together: the layers of one kind and one shape, for only those share their null references.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from subspace_lab.analysis.ranks import nearest_rank, reference_rank, telling_rank
from subspace_lab.analysis.trends import thirds
from subspace_lab.runs import Run, RunError
from subspace_lab.runs.errors import in_shell
from subspace_lab.runs.tables import TABLES

_NEEDS = {
    "angles": ("topk:K", "gram", "full"),
    "curvature": ("gram", "full"),
}


class AbsentError(Exception):
    """Why a figure cannot be drawn from a run: one sentence."""


def load(run: Run, name: str) -> pd.DataFrame:
    """A table of the run with a column ``panel``, in the order of the layer table.

    Args:
        run: A run that was analysed.
        name: The analysis.

    Returns:
        The table; its ``panel`` is an ordered category.

    Raises:
        AbsentError: If the run has no such table or there is nothing in it.
        RunError: If it cannot be read, or is of another run.
    """
    present = (run.path / "analysis" / f"{name}.parquet").is_file()
    table = run.table(name, TABLES.get(name)) if present else pd.DataFrame()
    if table.empty:
        raise AbsentError(_why_missing(run, name, present=present))
    layers, order = panel_names(run), list(positions(run))
    if unknown := [layer for layer in table["layer"].cat.categories if layer not in layers]:
        raise RunError(
            f"the table {name!r} of {run.path} has a layer {unknown[0]!r} that the manifest does not have; "
            f"run again: subspace-lab analyze {in_shell(run.path)}"
        )
    places = [order.index(layers[layer]) for layer in table["layer"].cat.categories]
    codes = np.take(places, table["layer"].cat.codes)
    return table.assign(panel=pd.Categorical.from_codes(codes, pd.Index(order), ordered=True))


def _why_missing(run: Run, name: str, *, present: bool) -> str:
    needs = _NEEDS.get(name, ())
    if needs and not run.keep.startswith(tuple(need.partition(":")[0] for need in needs)):
        return f"The {name} analysis needs gradients captured with keep={' or '.join(needs)}; this run kept {run.keep}."
    if not present:
        return f"There is no table of the {name} analysis yet; run: subspace-lab analyze {in_shell(run.path)}"
    if needs and len(run.steps) < 2:
        return f"The {name} analysis compares captured steps, and there are fewer than two."
    return f"The {name} analysis found nothing to measure in what was captured."


def panel_names(run: Run) -> dict[str, str]:
    """The panel of each layer: its kind, and its shape where layers of that kind differ in it.

    Args:
        run: A run that was analysed.

    Returns:
        Layer name -> panel name, in the order of the layer table.
    """
    shapes: dict[str, set[tuple[int, int]]] = {}
    for layer in run.manifest["layers"]:
        shapes.setdefault(layer["kind"], set()).add(oriented_shape(layer))
    return {
        layer["name"]: _panel_name(layer, several=len(shapes[layer["kind"]]) > 1) for layer in run.manifest["layers"]
    }


def _panel_name(layer: Mapping[str, Any], *, several: bool) -> str:
    m, n = oriented_shape(layer)
    return f"{layer['kind']} {m}×{n}" if several else str(layer["kind"])


def oriented_shape(layer: Mapping[str, Any]) -> tuple[int, int]:
    """``(m, n)`` of a row of the layer table.

    Args:
        layer: The row.

    Returns:
        The shape of the oriented gradient.
    """
    rows, cols = layer["rows"], layer["cols"]
    return (rows, cols) if layer["side"] == "left" else (cols, rows)


def at_reference_rank(run: Run, table: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The rows of the rank nearest a quarter of the median m, for tables that hold one rank or more.

    Args:
        run: A run that was analysed.
        table: A table with a column ``rank``.

    Returns:
        Those rows, and the rank.
    """
    rank = nearest_rank(table["rank"], reference_rank(run))
    return table[table["rank"] == rank], rank


def at_telling_rank(run: Run, energy: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The rows of the rank at which energies are shown: that of the findings.

    Args:
        run: A run that was analysed.
        energy: The energy table.

    Returns:
        Those rows, and the rank.

    Raises:
        AbsentError: If no energy is a number.
    """
    energy = finite(energy, "ratio", "No gradient had a finite energy.")
    rank = telling_rank(run, energy)
    return energy[energy["rank"] == rank], rank


def finite(table: pd.DataFrame, column: str, why: str) -> pd.DataFrame:
    """The rows whose value is a number.

    Args:
        table: A table.
        column: The column that is drawn.
        why: What to tell when there is none.

    Returns:
        The rows.

    Raises:
        AbsentError: If there is none.
    """
    rows: pd.DataFrame = table[np.isfinite(table[column])]
    if rows.empty:
        raise AbsentError(why)
    return rows


def by_panel(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of each panel that has any.

    Args:
        table: From `load`.

    Yields:
        Panel names and rows, in the order of the layer table.
    """
    for panel, rows in table.groupby("panel", observed=True):
        yield str(panel), rows


def positions(run: Run) -> dict[str, int]:
    """Where each panel stands in the run: it decides colours and markers, the same ones in every figure."""
    return {panel: position for position, panel in enumerate(dict.fromkeys(panel_names(run).values()))}


def stages(steps: Iterable[int]) -> dict[str, list[int]]:
    """Early, middle and late: the thirds of the captured steps (fewer names when there are fewer steps).

    Args:
        steps: Captured steps, at least one.

    Returns:
        Name with the span of steps -> steps.

    >>> stages([0, 10, 20, 30])
    {'early (step 0)': [0], 'middle (steps 10–20)': [10, 20], 'late (step 30)': [30]}
    """
    parts = {name: part for name, part in zip(("early", "middle", "late"), thirds(steps), strict=True) if part}
    if len(parts) == 1:
        return {_span(part): part for part in parts.values()}
    return {f"{name} ({_span(part)})": part for name, part in parts.items()}


def _span(steps: Sequence[int]) -> str:
    """``step 5``, or ``steps 0–20``."""
    return f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]}–{steps[-1]}"
