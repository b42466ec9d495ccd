"""Which executor runs the trials of a study, and which device each of them has."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from subspace_lab._text import unknown
from subspace_lab.experiments.executors.base import Executor

Kind = Literal["local", "slurm"]


def check_execution(kind: str, workers: int | None, slurm: Mapping[str, Any] | None) -> None:
    """Refuse what makes no sense of how trials are to be run.

    Args:
        kind: ``local`` or ``slurm``.
        workers: Trials at a time.
        slurm: Options of Slurm.

    Raises:
        ValueError: If the kind is not known, or the others do not go with it.
    """
    if kind not in get_args(Kind):
        raise ValueError(unknown("executor", kind, get_args(Kind)))
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise ValueError(f"workers must be a whole number of at least 1, got {workers!r}")
    if slurm and kind != "slurm":
        raise ValueError("options of Slurm have no effect on executor='local'; leave them out, or say executor='slurm'")


def workers_of(kind: Kind, workers: int | None, *, processes: int = 1, gpus: int | None = None) -> int | None:
    """How many trials run at a time.

    Args:
        kind: ``local`` or ``slurm``.
        workers: What was asked for; None for the default.
        processes: Processes that share a trial.
        gpus: GPUs of this machine; None looks.

    Returns:
        Here by default one per GPU, or one per core where there is none; None for as many as Slurm gives.

    Raises:
        ValueError: If several are asked for where several processes share each trial.
    """
    if kind == "slurm":
        return workers
    if processes == 1:
        return workers or _count(gpus) or os.cpu_count() or 1
    if workers not in {None, 1}:
        raise ValueError(
            f"workers={workers} has no use here: {processes} processes share a training, one after the other"
        )
    return 1


def places(workers: int, gpus: int | None = None) -> list[dict[str, str]]:
    """Variables of the process of each worker: with GPUs here, each has one of them, the workers dealt out in turn.

    Args:
        workers: How many.
        gpus: GPUs of this machine; None looks.

    Returns:
        One dictionary per worker.
    """
    number = _count(gpus)
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
    """The executor of a study.

    Args:
        trials_dir: The directory of all trials.
        kind: Processes of this machine, or a Slurm job array.
        workers: Trials at a time; None for the default of `workers_of`.
        slurm: Options of Slurm.
        processes: How many share a trial; several are begun by torchrun, on Slurm in the trial's job.

    Returns:
        A context manager, which costs something only when it is first given trials.

    Raises:
        ValueError: If that makes no sense, or there is no Slurm here.
        ModuleNotFoundError: Without the packages of the extra ``slurm``.
    """
    check_execution(kind, workers, slurm)
    workers = workers_of(kind, workers, processes=processes)
    if kind == "slurm":
        from subspace_lab.experiments.executors.slurm import SlurmExecutor
        from subspace_lab.experiments.executors.torchrun import run_in_job

        if processes == 1:
            return SlurmExecutor(trials_dir, workers, slurm)
        return SlurmExecutor(trials_dir, workers, slurm, functools.partial(run_in_job, processes=processes))
    if processes == 1:
        from subspace_lab.experiments.executors.local import LocalExecutor

        return LocalExecutor(trials_dir, places(workers or 1))
    from subspace_lab.experiments.executors.torchrun import TorchrunExecutor

    return TorchrunExecutor(processes)


def _count(gpus: int | None) -> int:
    if gpus is not None:
        return gpus
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
