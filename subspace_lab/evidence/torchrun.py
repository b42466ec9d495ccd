"""Cells that several processes share, one cell after the other, begun by torchrun.

``python -m subspace_lab.evidence.torchrun CELLS NAME`` is what torchrun begins in each process: it trains the cell
whose configuration lies beside its run directory.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from subspace_lab.comparison.cells import Cell
from subspace_lab.comparison.record import read_record, record_path
from subspace_lab.runs.files import publish_json
from subspace_lab.runs.manifest import MANIFEST

_PATIENCE_S = 0.5  # between two looks at how far a cell is


class TorchrunExecutor:
    """One cell at a time, in several processes; a context manager, at whose end no cell is running.

    Args:
        cells_dir: The directory of all cells.
        processes: How many share a cell, one per GPU where there are some.
    """

    def __init__(self, cells_dir: Path, processes: int) -> None:
        self._dir, self._processes = cells_dir, processes
        self._running: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._running is not None and self._running.poll() is None:
            os.killpg(self._running.pid, signal.SIGTERM)
            self._running.wait()

    def run(
        self,
        todo: Sequence[Cell],
        begun: Callable[[Cell], None],
        ended: Callable[[Cell, str], None],
        look: Callable[[], None],
    ) -> None:
        """As `LocalExecutor.run`."""
        for cell in todo:
            self._dir.mkdir(parents=True, exist_ok=True)
            request = {
                "config": cell.config.to_dict(),
                "attempt": read_record(record_path(self._dir, cell.name)).attempts + 1,
                "resume": (self._dir / cell.name / MANIFEST).exists(),
            }
            publish_json(_request(self._dir, cell.name), request)
            begun(cell)
            with (self._dir / f"{cell.name}.log").open("ab") as log:
                self._running = subprocess.Popen(
                    [sys.executable, *command(self._dir, cell.name, self._processes)[1:]],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                )  # fmt: skip
            while self._running.poll() is None:
                look()
                try:
                    self._running.wait(_PATIENCE_S)
                except subprocess.TimeoutExpired:
                    continue
            status = self._running.returncode
            ended(cell, f"torchrun ended with status {status}, see {cell.name}.log" if status else "")


def command(cells_dir: Path, name: str, processes: int) -> list[str]:
    """The command that trains a cell.

    Args:
        cells_dir: The directory of all cells.
        name: The cell.
        processes: How many share it.

    Returns:
        Its words; ``python -m torch.distributed.run`` is torchrun.
    """
    torchrun = ["python", "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*torchrun, "-m", "subspace_lab.evidence.torchrun", str(cells_dir), name]


def _request(cells_dir: Path, name: str) -> Path:
    return cells_dir / f"{name}.request.json"


def main(cells_dir: str, name: str) -> None:
    """Train a cell in one of its processes.

    Args:
        cells_dir: The directory of all cells.
        name: The cell.
    """
    from subspace_lab.comparison.cell import run_cell

    request = json.loads(_request(Path(cells_dir), name).read_text(encoding="utf-8"))
    run_cell(cells_dir, name, request["config"], request["attempt"], resume=request["resume"])


if __name__ == "__main__":
    main(*sys.argv[1:])
