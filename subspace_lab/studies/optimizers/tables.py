"""The tables of a comparison: one row per cell, and one per step of every cell."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from subspace_lab.experiments.outcome import Outcome, read_outcome
from subspace_lab.optim import memory_report, method_named
from subspace_lab.runs import RunError
from subspace_lab.runs.manifest import MANIFEST, read_manifest
from subspace_lab.runs.metrics import read_numbers
from subspace_lab.studies.optimizers.cells import Cell
from subspace_lab.studies.optimizers.states import planned_bytes
from subspace_lab.training import TrainConfig, parameter_shapes, preset

_LAST = 10  # the training loss is the mean over this fraction of the steps, the last ones
RESULTS: dict[str, str] = {
    "cell": "str", "method": "str", "lr": "float64", "seed": "int64", "status": "str", "reason": "str",
    "attempts": "int64", "steps": "int64", "tokens": "Int64", "train_loss": "float64", "eval_loss": "float64",
    "wall_s": "float64", "step_s": "float64", "refresh_s": "float64", "refresh_share": "float64",
    "state_bytes": "Int64", "state_bytes_formula": "Int64", "peak_bytes": "Int64", "base_bytes": "Int64",
}  # fmt: skip
CURVES: dict[str, str] = {
    "cell": "category", "method": "category", "lr": "float64", "seed": "int64", "step": "int64", "wall_s": "float64",
    "loss": "float64", "eval_loss": "float64", "bulk_share": "float64", "recovery_share": "float64",
    "limiter": "float64", "limited_share": "float64",
}  # fmt: skip
_OUTCOME = ("status", "reason", "attempts", "state_bytes", "peak_bytes", "base_bytes")
_SHARES = ("bulk_share", "recovery_share", "limiter", "limited_share")


def results_table(cells_dir: Path, cells: Sequence[Cell]) -> pd.DataFrame:
    """One row per cell, whatever became of it.

    Losses are those of complete cells; ``train_loss`` is the mean over the last tenth of the steps, ``eval_loss`` that
    on held-out text before the last step. Times are those of training alone (evaluations, checkpoints and the start
    are not in them), whatever number of attempts it took.

    Args:
        cells_dir: The directory of all cells.
        cells: The cells.

    Returns:
        A table with the columns of `RESULTS`.

    Raises:
        RunError: If the metrics of a cell cannot be read.
    """
    rows = []
    for cell in cells:
        outcome = read_outcome(cells_dir, cell.name)
        row = {"cell": cell.name, "method": cell.method, "lr": cell.lr, "seed": cell.seed}
        row |= {name: getattr(outcome, name) for name in _OUTCOME} | _measured(_metrics(cells_dir, cell), outcome)
        rows.append({**row, "state_bytes_formula": formula_bytes(cell.config, _plan(cells_dir / cell.name))})
    return pd.DataFrame(rows, columns=list(RESULTS)).astype(RESULTS)


def curves_table(cells_dir: Path, cells: Sequence[Cell]) -> pd.DataFrame:
    """One row per step of every cell, also of those that did not come to their end.

    Args:
        cells_dir: The directory of all cells.
        cells: The cells.

    Returns:
        A table with the columns of `CURVES`; ``wall_s`` is the time of training until the step's gradient.

    Raises:
        RunError: If the metrics of a cell cannot be read.
    """
    parts = []
    for cell in cells:
        metrics = _metrics(cells_dir, cell)
        about: dict[str, Any] = {"cell": cell.name, "method": cell.method, "lr": cell.lr, "seed": cell.seed}
        parts.append(metrics.assign(**about, wall_s=metrics["seconds"].cumsum()))
    return pd.concat(parts, ignore_index=True)[list(CURVES)].astype(CURVES)


def formula_bytes(config: TrainConfig, plan: Mapping[str, Any] | None = None) -> int | None:
    """What the memory report says that the optimizer of a cell keeps.

    None for a pretrained model, and without the plan where the configuration names one.

    Args:
        config: The cell's configuration.
        plan: The content of the plan that its optimizer was made of, if any.

    Returns:
        The bytes.
    """
    if config.preset is None:
        return None
    size = preset(config.preset)
    shapes = parameter_shapes(dataclasses.replace(size, vocab_size=config.vocab_size or size.vocab_size))
    kind = method_named(config.optimizer)
    known = getattr(kind, "options", ())
    options = {name: value for name, value in (config.optimizer_options or {}).items() if name in known}
    if "plan" in (config.optimizer_options or {}):
        return None if plan is None else planned_bytes(shapes, plan, options)
    return memory_report(shapes, kind, rank=config.rank or size.usual_rank, **options).optimizer


def _plan(run_dir: Path) -> Mapping[str, Any] | None:
    """The plan that a cell was trained by, as its manifest has it; None without one, and before it began."""
    try:
        plan: dict[str, Any] | None = read_manifest(run_dir).get("plan")
    except RunError:
        return None
    if plan is None:
        return None
    layers = plan.get("layers") if isinstance(plan, dict) else None
    if not isinstance(layers, list) or not all(_is_planned(layer) for layer in layers):
        raise RunError(
            f"{run_dir / MANIFEST}: plan is not a plan of layers, each with layer and rank; restore the file"
        )
    return plan


def _is_planned(layer: object) -> bool:
    """Whether this is a layer of a plan, as far as bytes depend on it."""
    if not isinstance(layer, dict) or not isinstance(layer.get("layer"), str):
        return False
    rank = layer.get("rank")
    return isinstance(rank, int) and not isinstance(rank, bool) and rank >= 1


def _metrics(cells_dir: Path, cell: Cell) -> pd.DataFrame:
    columns = ["step", "loss", "eval_loss", "tokens", "seconds", "refresh_seconds", *_SHARES]
    path = cells_dir / cell.name / "metrics.jsonl"
    return pd.DataFrame(read_numbers(path, columns, whole={"step", "tokens"}), columns=columns)


def _measured(metrics: pd.DataFrame, outcome: Outcome) -> dict[str, Any]:
    if metrics.empty:
        return {"steps": 0}
    wall, refreshes = metrics["seconds"].sum(), metrics["refresh_seconds"].sum()
    found = {
        "steps": len(metrics),
        "tokens": int(metrics["tokens"].sum()),
        "wall_s": wall,
        "step_s": metrics["seconds"].median(),
        "refresh_s": refreshes,
        "refresh_share": refreshes / wall,
    }
    if outcome.status == "complete":
        found["train_loss"] = metrics["loss"].iloc[-max(1, len(metrics) // _LAST) :].mean()
        found["eval_loss"] = metrics["eval_loss"].iloc[-1]
    return found
