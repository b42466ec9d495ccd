"""Running one trial in this process, and writing its outcome."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import torch

from subspace_lab.experiments.executors.base import Request
from subspace_lab.experiments.outcome import Outcome, peak_memory, read_outcome, write_outcome
from subspace_lab.experiments.plugins import import_plugins
from subspace_lab.experiments.recipe import is_first, recipe_named, weights_hash
from subspace_lab.runs.manifest import MANIFEST
from subspace_lab.training import DivergedError, TrainingInterrupted


def run_trial(request: Request) -> None:
    """Run a trial, or resume it, and write its outcome; an error becomes a line in it and a traceback on stderr.

    Of several processes that share a trial the first one writes, and the others raise their errors.
    """
    trials_dir = Path(request.trials_dir)
    directory = trials_dir / request.name
    before = read_outcome(trials_dir, request.name)
    has_gpu = torch.cuda.is_available()
    base = 0 if has_gpu else before.base_bytes or peak_memory()
    if has_gpu:
        torch.cuda.reset_peak_memory_stats()
    end: dict[str, Any]
    try:
        import_plugins(request.plugins)
        parents = {parent: trials_dir / name for parent, name in request.parents.items()}
        begun_from = {parent: weights_hash(path) or "" for parent, path in parents.items()}
        resume = (directory / MANIFEST).exists() if request.resume is None else request.resume
        measured = recipe_named(request.recipe, request.plugins).run(
            directory, request.config, [*parents.values()], resume=resume, keeps_weights=request.keeps_weights
        )
        if not is_first():
            return
        directory.mkdir(parents=True, exist_ok=True)  # of a recipe that left no file: without it nothing was run
        end = {
            "status": "complete", "metrics": measured.metrics, "state_bytes": measured.state_bytes,
            "weights": weights_hash(directory), "parents": begun_from,
        }  # fmt: skip
    except TrainingInterrupted as interrupt:
        end = {"status": "cut", "reason": f"interrupted at step {interrupt.step}"}
    except DivergedError as error:
        reason = str(error).partition(";")[0].removeprefix(f"{directory} diverged ")
        end = {"status": "diverged", "reason": reason}
    except Exception as error:
        if not is_first():
            raise  # torchrun then ends the others, which may wait for this one
        traceback.print_exc()
        end = {"status": "failed", "reason": _reason(error)}
    if is_first():
        peak = max(torch.cuda.max_memory_allocated() if has_gpu else peak_memory(), before.peak_bytes or 0)
        outcome = Outcome(attempts=request.attempt, base_bytes=base, peak_bytes=peak, **end)
        write_outcome(trials_dir, request.name, outcome)


def _reason(error: Exception) -> str:
    text = next(iter(str(error).splitlines()), "")
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text:
        return f"out of memory: {text}".removesuffix(": ")
    return f"{type(error).__name__}: {text}"
