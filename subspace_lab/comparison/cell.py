"""Training one cell in this process, and leaving a record of what became of it."""

from __future__ import annotations

import dataclasses
import os
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from subspace_lab.comparison.record import Record, peak_memory, read_record, record_path, write_record
from subspace_lab.runs import Run
from subspace_lab.runs.manifest import MANIFEST
from subspace_lab.runs.snapshot import Snapshot
from subspace_lab.training import DivergedError, TrainConfig, TrainingInterrupted, train
from subspace_lab.training.checkpoint import checkpoint_path, checkpoint_steps


def run_cell(cells: str, name: str, config: Mapping[str, Any], attempt: int, *, resume: bool | None = None) -> None:
    """Train a cell, or go on with it, and write its record; an error becomes a line in it and a traceback on stderr.

    Of several processes that share a cell the first one writes. The checkpoints of a complete cell are removed:
    everything that the tables hold is in its metrics and its record.

    Args:
        cells: The directory of all cells.
        name: The cell.
        config: Its configuration, as `TrainConfig.to_dict` has it.
        attempt: Which time it is begun or resumed, from 1 on.
        resume: Whether there is a run to go on with; None looks, which several processes may not do by themselves.

    Raises:
        Exception: Whatever went wrong, in a process that is not the first.
    """
    run_dir, path = Path(cells, name), record_path(Path(cells), name)
    is_first = os.environ.get("RANK", "0") == "0"
    before = read_record(path)
    record = Record(attempts=attempt, base_bytes=before.base_bytes or peak_memory())
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        record = dataclasses.replace(record, base_bytes=0)
    try:
        _train(run_dir, TrainConfig.from_dict(config), resume=resume)
        if not is_first:
            return
        record = dataclasses.replace(record, status="complete", state_bytes=state_bytes(run_dir))
    except TrainingInterrupted as interrupt:
        record = dataclasses.replace(record, status="cut", reason=f"interrupted at step {interrupt.step}")
    except DivergedError as error:
        reason = str(error).partition(";")[0].removeprefix(f"{run_dir} diverged ")
        record = dataclasses.replace(record, status="diverged", reason=reason)
    except Exception as error:
        if not is_first:
            raise  # torchrun then ends the others, which may wait for this one
        traceback.print_exc()
        record = dataclasses.replace(record, status="failed", reason=_reason(error))
    if not is_first:
        return
    write_record(path, dataclasses.replace(record, peak_bytes=max(_peak(), before.peak_bytes or 0)))
    if record.status == "complete":
        for step in checkpoint_steps(run_dir):
            checkpoint_path(run_dir, step).unlink()


def state_bytes(run_dir: Path) -> int:
    """Bytes of the optimizer's tensors in the last checkpoint of a run.

    Args:
        run_dir: The run directory.

    Returns:
        The bytes.
    """
    with Snapshot(checkpoint_path(run_dir, checkpoint_steps(run_dir)[-1])) as file:
        names = (name.partition(":") for name in file.context["tensors"])
        tensors = (file.get(part, rest) for part, _, rest in names if part == "optimizer")
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def _train(run_dir: Path, config: TrainConfig, *, resume: bool | None) -> None:
    begun = (run_dir / MANIFEST).exists() if resume is None else resume
    if not (begun and Run.open(run_dir).manifest.get("finished")):
        train(run_dir, config, resume=begun)


def _peak() -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_memory()


def _reason(error: Exception) -> str:
    text = next(iter(str(error).splitlines()), "")
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text:
        return f"out of memory: {text}".removesuffix(": ")
    return f"{type(error).__name__}: {text}"
