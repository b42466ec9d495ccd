"""Processes that are begun with the first training and kept until the last figure."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from subspace_lab.comparison.cells import Cell
from subspace_lab.comparison.local import LocalExecutor
from subspace_lab.evidence.torchrun import TorchrunExecutor


class Lasting:
    """An executor that many batches of cells share: the libraries are imported once.

    Args:
        cells_dir: Where the cells are.
        processes: How many share a cell; several are begun by torchrun, one cell after the other.
        workers: How many cells at a time; None for one per core.

    Raises:
        ValueError: If workers is no positive whole number.
    """

    def __init__(self, cells_dir: Path, processes: int, workers: int | None) -> None:
        if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
            raise ValueError(f"workers must be a whole number of at least 1, got {workers!r}")
        self.workers = (workers or os.cpu_count() or 1) if processes == 1 else 1
        if processes > 1 and workers not in {None, 1}:
            raise ValueError(
                f"workers={workers} has no use here: {processes} processes share a training, one after the other"
            )
        self._executor = (
            LocalExecutor(cells_dir, self.workers) if processes == 1 else TorchrunExecutor(cells_dir, processes)
        )
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
