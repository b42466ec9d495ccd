"""Which executor runs the trials of a study, and which device each of them has."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from subspace_lab._checks import whole_number
from subspace_lab._text import unknown
from subspace_lab.experiments.executors import slurm as slurm_jobs, torchrun
from subspace_lab.experiments.executors.base import Executor
from subspace_lab.experiments.executors.local import LocalExecutor
from subspace_lab.experiments.run_trial import run_trial

Kind = Literal["local", "slurm"]


def check_execution(kind: str, workers: int | None, slurm: Mapping[str, Any] | None) -> None:
    """ValueError if the kind is not known, `workers` is not at least 1, or options of Slurm are given for another."""
    if kind not in get_args(Kind):
        raise ValueError(unknown("executor", kind, get_args(Kind)))
    if workers is not None:
        whole_number("workers", workers)
    if slurm and kind != "slurm":
        raise ValueError("options of Slurm have no effect on executor='local'; leave them out, or say executor='slurm'")


def workers_of(kind: Kind, workers: int | None, *, processes: int = 1, gpus: int | None = None) -> int | None:
    """Trials at a time: one per GPU, else per core, or one that `processes` share; None for as many as Slurm gives."""
    if kind == "slurm":
        return workers
    if processes == 1:
        return workers or (torch.cuda.device_count() if gpus is None else gpus) or os.cpu_count() or 1
    if workers not in {None, 1}:
        raise ValueError(
            f"workers={workers} has no use here: {processes} processes share a training, one after the other"
        )
    return 1


def places(workers: int, gpus: int | None = None) -> list[dict[str, str]]:
    """Environment variables of each worker's processes: where there are GPUs, each worker has one, in turn."""
    number = torch.cuda.device_count() if gpus is None else gpus
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(index) for index in range(number)]
    return [{"CUDA_VISIBLE_DEVICES": names[k % number]} if number else {} for k in range(workers)]


def executor_of(
    trials_dir: Path,
    kind: Kind = "local",
    workers: int | None = None,
    slurm: Mapping[str, Any] | None = None,
    *,
    processes: int = 1,
) -> Executor:
    """The executor of a study, which starts nothing before it is given trials; ValueError for what does not fit."""
    check_execution(kind, workers, slurm)
    workers = workers_of(kind, workers, processes=processes)
    if kind == "slurm":
        work = run_trial if processes == 1 else functools.partial(torchrun.run_in_job, processes=processes)
        return slurm_jobs.SlurmExecutor(trials_dir, workers, slurm, work)
    return torchrun.TorchrunExecutor(processes) if processes > 1 else LocalExecutor(trials_dir, places(workers or 1))
