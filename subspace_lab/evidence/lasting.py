"""Processes that are begun with the first training and kept until the last figure."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from subspace_lab.comparison.cell import run_cell
from subspace_lab.comparison.cells import Cell
from subspace_lab.comparison.local import LocalExecutor
from subspace_lab.comparison.slurm import SlurmExecutor
from subspace_lab.comparison.sweep import AnyExecutor, Executor, check_execution
from subspace_lab.evidence.torchrun import TorchrunExecutor, train_in_job


class Lasting:
    """An executor that many batches of cells share: the libraries are imported once.

    Args:
        cells_dir: Where the cells are.
        processes: How many share a cell; several are begun by torchrun, here one cell after the other.
        kind: ``local`` or ``slurm``.
        workers: How many cells at a time; None for one per core, or as many as Slurm gives.
        slurm: Options of Slurm.

    Raises:
        ValueError: If that makes no sense, or there is no Slurm here.
    """

    def __init__(
        self, cells_dir: Path, processes: int, kind: Executor, workers: int | None, slurm: Mapping[str, Any] | None
    ) -> None:
        check_execution(kind, workers, slurm)
        if kind == "local":
            workers = _here(processes, workers)
        self.workers, self._executor = workers, _executor(cells_dir, processes, kind, workers, slurm)
        self._depth, self._begun = 0, False

    def __enter__(self) -> Self:
        self._depth += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._begun and not self._depth:
            self._executor.__exit__(kind, error, trace)

    def run(
        self,
        todo: Sequence[Cell],
        begun: Callable[[Cell], None],
        ended: Callable[[Cell, str], None],
        look: Callable[[], None],
    ) -> None:
        """As `LocalExecutor.run`."""
        if not self._begun:
            self._executor.__enter__()
            self._begun = True
        self._executor.run(todo, begun, ended, look)


def _here(processes: int, workers: int | None) -> int:
    """How many cells at a time this machine trains."""
    if processes == 1:
        return workers or os.cpu_count() or 1
    if workers not in {None, 1}:
        raise ValueError(
            f"workers={workers} has no use here: {processes} processes share a training, one after the other"
        )
    return 1


def _executor(
    cells_dir: Path, processes: int, kind: Executor, workers: int | None, slurm: Mapping[str, Any] | None
) -> AnyExecutor:
    if kind == "slurm":
        train = run_cell if processes == 1 else functools.partial(train_in_job, processes=processes)
        return SlurmExecutor(cells_dir, workers, slurm, train)
    if processes == 1:
        return LocalExecutor(cells_dir, workers or 1)
    return TorchrunExecutor(cells_dir, processes)
