"""The table of layers: one row each, means over the captured steps at the ranks of the figures."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pandas as pd

from subspace_lab.analysis.trends import change_over_training
from subspace_lab.figures.tables import AbsentError, at_reference_rank, at_telling_rank, load, oriented_shape
from subspace_lab.runs import Run


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        key: Its name in a row.
        label: Its heading.
        meaning: What it says, for the legend above the table.
        form: How a number is written; empty for text.
    """

    key: str
    label: str
    meaning: str = ""
    form: str = ""

    def text(self, value: Any) -> str:
        """A value as it is shown.

        Args:
            value: A number, a text or None.

        Returns:
            Plain text; a dash for what is not known.
        """
        if value is None:
            return "–"
        if not self.form:
            return str(value)
        text = format(value, self.form)
        return (text if float(text) else text.replace("-", "+")).replace("-", "−")


COLUMNS = (
    Column("name", "layer"),
    Column("depth", "depth", form="d"),
    Column("kind", "kind"),
    Column("m", "m", form="d"),
    Column("n", "n", form="d"),
    Column("energy", "energy", "share of ‖G‖² in the own top-r space, mean over the captured steps", ".3f"),
    Column("null_noise", "noise null", "the same for independent Gaussian noise of that shape", ".3f"),
    Column("null_isotropic", "fixed null", "what a fixed basis holds of isotropic noise, r/m", ".3f"),
    Column("trend", "trend", "change of the energy from the first to the last third of the steps", "+.3f"),
    Column("stable_rank", "stable rank", "‖G‖² over the largest squared singular value, mean", ".1f"),
    Column("drift", "drift (°)", "mean principal angle to the capture before, degrees", ".1f"),
)


def layer_rows(run: Run) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """One row per layer of the manifest, with None for what is not known.

    Args:
        run: A run that was analysed.

    Returns:
        The rows by the keys of `COLUMNS`, and the ranks of what depends on one.
    """
    measured, ranks = _measured(run)
    rows = []
    for layer in run.manifest["layers"]:
        m, n = oriented_shape(layer)
        row = {"name": layer["name"], "depth": layer["depth"], "kind": layer["kind"], "m": m, "n": n}
        for key, values in measured.items():
            value = values.get(layer["name"])
            row[key] = None if value is None or pd.isna(value) else float(value)
        rows.append(row)
    return rows, ranks


def _measured(run: Run) -> tuple[dict[str, pd.Series[float]], dict[str, int]]:
    nothing: pd.Series[float] = pd.Series(dtype=float)
    found = dict.fromkeys(("energy", "null_noise", "null_isotropic", "trend", "stable_rank", "drift"), nothing)
    ranks: dict[str, int] = {}
    with suppress(AbsentError):  # the figures say what is missing, and why
        table, ranks["energy"] = at_telling_rank(run, load(run, "energy"))
        found |= _energies(table[table["basis"] == "own"])
    with suppress(AbsentError):
        found["stable_rank"] = _means(load(run, "spectrum_summary"), "stable_rank")
    with suppress(AbsentError):
        table, ranks["drift"] = at_reference_rank(run, load(run, "angles"))
        found["drift"] = _means(table[table["comparison"] == "previous"], "mean_deg")
    return found, ranks


def _energies(own: pd.DataFrame) -> dict[str, pd.Series[float]]:
    return {
        "energy": _means(own, "fraction"),
        "trend": change_over_training(own, "fraction").rename(index=str),
        **{name: _means(own, name) for name in ("null_noise", "null_isotropic")},
    }


def _means(table: pd.DataFrame, column: str) -> pd.Series[float]:
    means: pd.Series[float] = table.groupby("layer", observed=True)[column].mean()
    return means.rename(index=str)
