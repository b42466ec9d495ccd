"""Trials as a Slurm job array, by submitit."""

from __future__ import annotations

import functools
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from subspace_lab._extras import require
from subspace_lab._text import unknown
from subspace_lab.experiments.executors.base import Ended, Request, Watcher
from subspace_lab.experiments.run_trial import run_trial
from subspace_lab.runs import RunError

_PATIENCE_S = 2.0  # between two looks at the jobs
_WARNINGS = (signal.SIGUSR2, signal.SIGTERM)  # before the time limit, by submitit's request; of a cancelled job
_OURS = ("nodes", "ntasks_per_node", "tasks_per_node", "array_parallelism")


class SlurmExecutor:
    """A job array with one job per trial.

    Args:
        trials_dir: The directory of all trials, which the nodes must see under the same path.
        workers: Jobs at a time; None for as many as Slurm gives.
        options: Of Slurm: ``{"partition": "gpu", "time": 60}``.
        work: Runs a request in its job; may return how its processes ended.
        cluster: ``slurm``, or one of submitit's stand-ins.

    Raises:
        ValueError: If this machine has no Slurm, or an option is not known.
        ModuleNotFoundError: Without the packages of the extra ``slurm``.
    """

    def __init__(
        self,
        trials_dir: Path,
        workers: int | None,
        options: Mapping[str, Any] | None = None,
        work: Callable[[Request], Ended | None] = run_trial,
        cluster: str = "slurm",
    ) -> None:
        check_options(options or {})
        check_cluster(cluster)
        self._dir, self._work, self._cluster, self._jobs = trials_dir, work, cluster, dict[str, Any]()
        self._options = {} if workers is None else {"slurm_array_parallelism": workers}
        self._options |= {f"slurm_{name}": value for name, value in (options or {}).items()}

    def __enter__(self) -> Self:
        submitit = require("submitit", extra="slurm")
        self._executor = submitit.AutoExecutor(folder=self._dir.parent / "slurm" / "%j", cluster=self._cluster)
        self._executor.update_parameters(**{"name": "subspace-lab", **self._options})
        return self

    def __exit__(self, *_: object) -> None:
        for job in self._jobs.values():
            job.cancel(check=False)

    def run(self, trials: Sequence[Request], watch: Watcher) -> None:
        """See `Executor.run`."""
        job = functools.partial(_in_job, self._work)
        try:
            jobs = self._executor.map_array(job, list(trials))
        except RuntimeError as error:  # submitit's, for an error of sbatch
            line = next(iter(str(error).splitlines()), "sbatch failed")
            raise RunError(f"Slurm did not take the jobs ({line}); correct the options of Slurm") from error
        self._jobs = {request.name: job for request, job in zip(trials, jobs, strict=True)}
        for request in trials:
            watch.begun(request.name)
        while self._jobs:
            for name in [name for name, job in self._jobs.items() if job.done()]:
                watch.ended(name, _ended(self._jobs.pop(name)))
            watch.look()
            if self._jobs:
                time.sleep(_PATIENCE_S)


def check_cluster(cluster: str) -> None:
    """ValueError where there is no Slurm; submitit's stand-ins are everywhere."""
    if cluster == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
        raise ValueError(
            "there is no Slurm here (no sbatch on the PATH); leave out --executor slurm to use this machine"
        )


def check_options(options: Mapping[str, Any]) -> None:
    """ValueError for an option that Slurm does not have or that is set here; ModuleNotFoundError without submitit."""
    submitit = require("submitit", extra="slurm")
    known = submitit.SlurmExecutor._valid_parameters() | submitit.AutoExecutor._valid_parameters()
    for name in options:
        if name in _OURS:
            raise ValueError(
                f"the option {name} of Slurm is fixed: a job is one task on one node, and workers says how many "
                "jobs at a time; leave it out"
            )
        if name not in known:
            raise ValueError(unknown("option of Slurm", name, sorted(known - {*_OURS})))


def _in_job(work: Callable[[Request], Ended | None], request: Request) -> Ended | None:
    """Run a trial in this job; Slurm's warnings act like Ctrl-C, so that it leaves a checkpoint."""

    def warned(*_: object) -> None:
        for number in _WARNINGS:
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C would not wait for the checkpoint
        signal.raise_signal(signal.SIGINT)

    for number in _WARNINGS:
        signal.signal(number, warned)
    return work(request)


def _ended(job: Any) -> Ended:
    error = job.exception()
    if error is None:
        found: Ended | None = job.result()
        return found or Ended("finished")
    return Ended("killed", f"job {job.job_id} ended as {job.state}: {next(iter(str(error).splitlines()), '')}")
