"""Cells as a Slurm job array, by submitit."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from subspace_lab._extras import require
from subspace_lab.comparison.cell import run_cell
from subspace_lab.comparison.cells import Cell
from subspace_lab.comparison.record import read_record, record_path

_PATIENCE_S = 2.0  # between two looks at the jobs


class SlurmExecutor:
    """A job array with one job a cell; a context manager, at whose end no job is left.

    Args:
        cells_dir: The directory of all cells, which the nodes must see under the same path.
        workers: How many jobs at a time; None for as many as Slurm gives.
        options: Of Slurm: ``{"partition": "gpu", "time": 60}``.
        cluster: ``slurm``; submitit has stand-ins for it.

    Raises:
        ValueError: If there is no Slurm here.
        ModuleNotFoundError: Without the packages of the extra ``slurm``.
    """

    def __init__(
        self, cells_dir: Path, workers: int | None, options: Mapping[str, Any] | None = None, cluster: str = "slurm"
    ) -> None:
        submitit = require("submitit", extra="slurm")
        if cluster == "slurm" and shutil.which("sbatch") is None:
            raise ValueError(
                "there is no Slurm here (no sbatch on the PATH); leave out --executor slurm to use this machine"
            )
        self._dir, self._jobs = cells_dir, dict[str, Any]()
        self._executor = submitit.AutoExecutor(folder=cells_dir.parent / "slurm" / "%j", cluster=cluster)
        limits = {} if workers is None else {"slurm_array_parallelism": workers}
        self._executor.update_parameters(
            name="subspace-lab", **limits, **{f"slurm_{name}": value for name, value in (options or {}).items()}
        )

    def __enter__(self) -> Self:
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
        """
        cells = {cell.name: cell for cell in todo}
        attempts = [read_record(record_path(self._dir, name)).attempts + 1 for name in cells]
        configs = [cell.config.to_dict() for cell in todo]
        jobs = self._executor.map_array(run_cell, [str(self._dir)] * len(todo), [*cells], configs, attempts)
        self._jobs = dict(zip(cells, jobs, strict=True))
        for cell in todo:
            begun(cell)
        while self._jobs:
            for name in [name for name, job in self._jobs.items() if job.done()]:
                ended(cells[name], _reason(self._jobs.pop(name)))
            look()
            if self._jobs:
                time.sleep(_PATIENCE_S)


def _reason(job: Any) -> str:
    error = job.exception()
    if error is None:
        return ""
    return f"job {job.job_id} ended as {job.state}: {next(iter(str(error).splitlines()), '')}"
