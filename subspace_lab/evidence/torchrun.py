"""Cells that several processes share, begun by torchrun: one after the other on this machine, or each in its job.

``python -m subspace_lab.evidence.torchrun CELLS NAME`` is what torchrun begins in each process: it trains the cell
whose configuration lies beside its run directory. When the process that began torchrun is gone, torchrun is
interrupted, and its processes leave a checkpoint; when torchrun itself is killed, so are they.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from subspace_lab.comparison.cells import Cell
from subspace_lab.comparison.parent import end_with_parent
from subspace_lab.comparison.record import read_record, record_path
from subspace_lab.runs.files import publish_json
from subspace_lab.runs.manifest import MANIFEST

_PATIENCE_S = 0.5  # between two looks at how far a cell is
_WATCHED = "subspace_lab.comparison.parent"


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
        if self._running is not None:
            _stop(self._running)

    def run(
        self,
        todo: Sequence[Cell],
        begun: Callable[[Cell], None],
        ended: Callable[[Cell, str], None],
        look: Callable[[], None],
    ) -> None:
        """As `LocalExecutor.run`."""
        for cell in todo:
            attempt = read_record(record_path(self._dir, cell.name)).attempts + 1
            self._running = _begin(self._dir, cell.name, cell.config.to_dict(), attempt, self._processes)
            begun(cell)
            while self._running.poll() is None:
                look()
                try:
                    self._running.wait(_PATIENCE_S)
                except subprocess.TimeoutExpired:
                    continue
            ended(cell, _reason(self._running, cell.name))


def train_in_job(cells_dir: str, name: str, config: Mapping[str, Any], attempt: int, *, processes: int) -> str:
    """Train a cell, or go on with it, in several processes, and wait for them.

    Args:
        cells_dir: The directory of all cells.
        name: The cell.
        config: Its configuration.
        attempt: Which time it is begun or resumed.
        processes: How many share it.

    Returns:
        What killed it, empty for nothing.
    """
    running = _begin(Path(cells_dir), name, config, attempt, processes)
    try:
        running.wait()
    except KeyboardInterrupt:
        _stop(running)
    return _reason(running, name)


def _begin(
    cells_dir: Path, name: str, config: Mapping[str, Any], attempt: int, processes: int
) -> subprocess.Popen[bytes]:
    cells_dir.mkdir(parents=True, exist_ok=True)
    resume = (cells_dir / name / MANIFEST).exists()
    publish_json(_request(cells_dir, name), {"config": config, "attempt": attempt, "resume": resume})
    with (cells_dir / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", _WATCHED, str(os.getpid()), *command(cells_dir, name, processes)[1:]],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,  # Ctrl-C is for this process, which tells torchrun
        )  # fmt: skip


def _stop(running: subprocess.Popen[bytes]) -> None:
    """Press Ctrl-C for it: torchrun tells the processes, and gives them half a minute for a checkpoint."""
    if running.poll() is None:
        running.send_signal(signal.SIGINT)
        running.wait()


def _reason(running: subprocess.Popen[bytes], name: str) -> str:
    """A process that fails by itself says so in the record: whatever else ends torchrun has killed one."""
    return f"killed, torchrun ended with status {running.returncode}, see {name}.log" if running.returncode else ""


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
    end_with_parent(os.getppid())
    from subspace_lab.comparison.cell import run_cell

    request = json.loads(_request(Path(cells_dir), name).read_text(encoding="utf-8"))
    run_cell(cells_dir, name, request["config"], request["attempt"], resume=request["resume"])


if __name__ == "__main__":
    main(*sys.argv[1:])
