"""The result table and the curves of a study: one row per trial, and one per step of it, with declared columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from subspace_lab.experiments.outcome import read_outcome
from subspace_lab.runs.metrics import read_numbers
from subspace_lab.training.tasks.base import LOSS, Metric

_LAST = 10  # the training loss is the mean over this fraction of the steps, the last ones
KEYS: dict[str, str] = {"trial": "str", "cell": "str"}  # content hash and directory
# What varies between trainings; a study may declare other factors.
TRAINING: dict[str, str] = {
    "method": "str", "preset": "str", "steps": "int64", "phase": "str", "lr": "float64", "lr_rest": "float64",
    "beta2": "float64", "warmup": "int64", "seed": "int64",
}  # fmt: skip
MEASURED: dict[str, str] = {
    "status": "str", "reason": "str", "attempts": "int64", "format": "int64", "steps_done": "int64", "tokens": "Int64",
    "train_loss": "float64", "wall_s": "float64", "step_s": "float64", "refresh_s": "float64",
    "refresh_share": "float64", "state_bytes": "Int64", "peak_bytes": "Int64", "base_bytes": "Int64",
}  # fmt: skip
CURVE: dict[str, str] = {"cell": "str", "step": "float64", "wall_s": "float64", "loss": "float64"}
_OF_OUTCOME = ("status", "reason", "attempts", "state_bytes", "peak_bytes", "base_bytes")
_OF_CURVE = ("tokens", "train_loss", "wall_s", "step_s", "refresh_s", "refresh_share")


def measured_row(trials_dir: Path, cell: str, metric: Metric = LOSS, also: Sequence[Metric] = ()) -> dict[str, Any]:
    """The measured columns of a trial's row, whatever became of it.

    The metric is that of a complete trial, before its last step; ``train_loss`` is the mean over the last tenth of the
    steps. Times are those of training alone, over all attempts, without evaluations, checkpoints and the start.

    Returns:
        The columns of `MEASURED`, the metric and those of `also`, empty where it did not measure them; RunError if the
        metrics cannot be read.
    """
    outcome = read_outcome(trials_dir, cell)
    row: dict[str, Any] = {name: getattr(outcome, name) for name in _OF_OUTCOME} | {"steps_done": 0}
    row |= dict.fromkeys((*_OF_CURVE, metric.name, *(one.name for one in also)))
    curve = _metrics(trials_dir / cell, [metric.name])
    if not curve.empty:
        wall, refreshes = curve["seconds"].sum(), curve["refresh_seconds"].sum()
        row |= {
            "steps_done": len(curve), "tokens": int(curve["tokens"].sum()), "wall_s": wall,
            "step_s": curve["seconds"].median(), "refresh_s": refreshes, "refresh_share": refreshes / wall,
        }  # fmt: skip
    if outcome.status == "complete":
        row |= {one.name: outcome.metrics.get(one.name) for one in (metric, *also)}
        if not curve.empty:
            row["train_loss"] = curve["loss"].iloc[-max(1, len(curve) // _LAST) :].mean()
            last = curve[metric.name].iloc[-1]
            row[metric.name] = row[metric.name] if pd.isna(last) else last
    return row


def curve_of(trials_dir: Path, cell: str, shares: Sequence[str], metric: Metric, points: int | None) -> pd.DataFrame:
    """The steps of a trial, complete or not, as means over at most so many blocks of steps (`points`; None for all).

    Returns:
        cell, step, wall_s (time of training until the step's gradient), loss, the metric, the shares (names in
        ``metrics.jsonl``); RunError if the metrics cannot be read.
    """
    names = [metric.name, *shares]
    curve = _metrics(trials_dir / cell, names)
    curve = curve.assign(cell=cell, wall_s=curve["seconds"].cumsum())[["cell", "step", "wall_s", "loss", *names]]
    if points is None or curve.empty:
        return curve
    width = -(-(int(curve["step"].max()) + 1) // points)
    blocks = curve.groupby(["cell", curve["step"] // width], sort=False).mean()
    return blocks.astype("float32").reset_index("cell").reset_index(drop=True)


def steps_done(trials_dir: Path, cell: str) -> int:
    """How many steps the metrics of a trial have, if there are any; RunError if they cannot be read."""
    return len(_metrics(trials_dir / cell, ()))


def _metrics(directory: Path, names: Sequence[str]) -> pd.DataFrame:
    columns = ["step", "loss", "tokens", "seconds", "refresh_seconds", *names]
    path = directory / "metrics.jsonl"
    return pd.DataFrame(read_numbers(path, columns, whole={"step", "tokens"}), columns=columns)
