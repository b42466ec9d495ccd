"""Cells as a Slurm job array, by submitit."""

from __future__ import annotations

import functools
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from subspace_lab._extras import require
from subspace_lab.comparison.cell import run_cell
from subspace_lab.comparison.cells import Cell
from subspace_lab.comparison.record import read_record, record_path
from subspace_lab.runs import RunError
from subspace_lab.training.names import unknown

_PATIENCE_S = 2.0  # between two looks at the jobs
_WARNINGS = (signal.SIGUSR2, signal.SIGTERM)  # before the time limit, as submitit asks for it; and of a cancelled job
_SETTLED = ("nodes", "ntasks_per_node", "tasks_per_node", "array_parallelism")


class SlurmExecutor:
    """A job array with one job a cell; a context manager, at whose end no job is left.

    Args:
        cells_dir: The directory of all cells, which the nodes must see under the same path.
        workers: How many jobs at a time; None for as many as Slurm gives.
        options: Of Slurm: ``{"partition": "gpu", "time": 60}``.
        train: What a job does, with the arguments of `run_cell`; it returns what killed the cell, if anything.
        cluster: ``slurm``; submitit has stand-ins for it.

    Raises:
        ValueError: If there is no Slurm here, or an option is not known.
        ModuleNotFoundError: Without the packages of the extra ``slurm``.
    """

    def __init__(
        self,
        cells_dir: Path,
        workers: int | None,
        options: Mapping[str, Any] | None = None,
        train: Callable[..., str | None] = run_cell,
        cluster: str = "slurm",
    ) -> None:
        check_options(options or {})
        if cluster == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
            raise ValueError(
                "there is no Slurm here (no sbatch on the PATH); leave out --executor slurm to use this machine"
            )
        self._dir, self._train, self._cluster, self._jobs = cells_dir, train, cluster, dict[str, Any]()
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

    def run(
        self,
        todo: Sequence[Cell],
        begun: Callable[[Cell], None],
        ended: Callable[[Cell, str], None],
        look: Callable[[], None],
    ) -> None:
        """Submit the cells and wait for them.

        Args:
            todo: The cells.
            begun: Told when one is submitted.
            ended: Told when the job of one has ended, and what killed it (empty for nothing).
            look: Called every other second.

        Raises:
            RunError: If Slurm does not take the jobs.
        """
        cells = {cell.name: cell for cell in todo}
        attempts = [read_record(record_path(self._dir, name)).attempts + 1 for name in cells]
        configs = [cell.config.to_dict() for cell in todo]
        job = functools.partial(_in_job, self._train)
        try:
            jobs = self._executor.map_array(job, [str(self._dir)] * len(todo), [*cells], configs, attempts)
        except RuntimeError as error:  # what submitit makes of sbatch's
            line = next(iter(str(error).splitlines()), "sbatch failed")
            raise RunError(f"Slurm did not take the jobs ({line}); mend the options of Slurm") from error
        self._jobs = dict(zip(cells, jobs, strict=True))
        for cell in todo:
            begun(cell)
        while self._jobs:
            for name in [name for name, job in self._jobs.items() if job.done()]:
                ended(cells[name], _reason(self._jobs.pop(name)))
            look()
            if self._jobs:
                time.sleep(_PATIENCE_S)


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options that Slurm does not have, and those that are settled here.

    Args:
        options: Of Slurm.

    Raises:
        ValueError: If there is such a one.
        ModuleNotFoundError: Without the packages of the extra ``slurm``.
    """
    submitit = require("submitit", extra="slurm")
    known = submitit.SlurmExecutor._valid_parameters() | submitit.AutoExecutor._valid_parameters()
    for name in options:
        if name in _SETTLED:
            raise ValueError(
                f"the option {name} of Slurm is settled: a job is one task on one node, and workers says how many "
                "jobs at a time; leave it out"
            )
        if name not in known:
            raise ValueError(unknown("option of Slurm", name, sorted(known - {*_SETTLED})))


def _in_job(train: Callable[..., str | None], *arguments: Any) -> str | None:
    """Train a cell in this job; Slurm's warnings are as Ctrl-C to it, so that it leaves a checkpoint."""

    def warned(*_: object) -> None:
        for number in _WARNINGS:
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C would not wait for the checkpoint
        signal.raise_signal(signal.SIGINT)

    for number in _WARNINGS:
        signal.signal(number, warned)
    return train(*arguments)


def _reason(job: Any) -> str:
    error = job.exception()
    if error is None:
        return job.result() or ""
    return f"job {job.job_id} ended as {job.state}: {next(iter(str(error).splitlines()), '')}"
