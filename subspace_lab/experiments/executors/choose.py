"""Which executor runs the trials of a study, and which device each of them has."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from subspace_lab._checks import check_choice, whole_number
from subspace_lab._text import unknown
from subspace_lab.experiments.executors import slurm as slurm_jobs, torchrun
from subspace_lab.experiments.executors.base import Executor
from subspace_lab.experiments.executors.local import LocalExecutor
from subspace_lab.training.config import Sharding

Kind = Literal["local", "slurm"]


def check_execution(
    kind: str,
    workers: int | None,
    slurm: Mapping[str, Any] | None,
    *,
    processes: int | None = None,
    sharding: str | None = None,
) -> None:
    """Refuse what does not fit together, before anything is written.

    Args:
        kind: The executor.
        workers: Trials at a time.
        slurm: Options of Slurm.
        processes: Of one training; 1 by default.
        sharding: How they share it.

    Raises:
        ValueError: If a value is not known or has no effect, or this process is one of several that torchrun began.
    """
    if (number := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise ValueError(
            f"torchrun began this process as one of {number} (WORLD_SIZE), and studies and analyses are of one, which "
            "begins the others itself; begin it without torchrun"
        )
    if kind not in get_args(Kind):
        raise ValueError(unknown("executor", kind, get_args(Kind)))
    if workers is not None:
        whole_number("workers", workers)
    if slurm and kind != "slurm":
        raise ValueError("options of Slurm have no effect on executor='local'; leave them out, or say executor='slurm'")
    if processes is not None:
        whole_number("processes", processes)
    if sharding is None:
        return
    check_choice("sharding", sharding, get_args(Sharding))
    if processes in {None, 1}:
        raise ValueError(f"sharding={sharding!r} has no effect on one process; give processes, or leave it out")
    if sharding == "hsdp":
        raise ValueError(
            "sharding='hsdp' shards over the processes of a node and copies over nodes, and a training of a study has "
            "one node; use sharding='fsdp'"
        )


def workers_of(kind: Kind, workers: int | None, *, processes: int | None = None, gpus: int | None = None) -> int | None:
    """Trials at a time: one per GPU, else per core, or one that `processes` share; None for as many as Slurm gives."""
    if kind == "slurm":
        return workers
    if processes in {None, 1}:
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
    processes: int | None = None,
    sharding: str | None = None,
) -> Executor:
    """The executor of a study, which starts nothing before it is given trials; ValueError for what does not fit.

    Args:
        trials_dir: The directory of all trials.
        kind: ``local`` or ``slurm``.
        workers: Trials at a time.
        slurm: Options of Slurm.
        processes: Of one training, 1 by default; several are begun by torchrun, here one training after the other.
        sharding: How they share it; ``ddp`` by default.

    Returns:
        The executor.
    """
    check_execution(kind, workers, slurm, processes=processes, sharding=sharding)
    workers = workers_of(kind, workers, processes=processes)
    if processes is None or processes == 1:
        if kind == "slurm":
            return slurm_jobs.SlurmExecutor(trials_dir, workers, slurm)
        return LocalExecutor(trials_dir, places(workers or 1))
    if kind == "slurm":
        work = functools.partial(torchrun.run_in_job, processes=processes, sharding=sharding)
        return slurm_jobs.SlurmExecutor(trials_dir, workers, slurm, work)
    alone = LocalExecutor(trials_dir, places(workers_of(kind, None) or 1))
    return torchrun.TorchrunExecutor(processes, sharding, alone)
