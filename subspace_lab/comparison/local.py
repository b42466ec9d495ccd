"""Cells in processes of this machine, so many at a time."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from subspace_lab.comparison.cells import Cell
from subspace_lab.comparison.record import read_record, record_path
from subspace_lab.runs import RunError

_LOG = ".nursery.log"
_PATIENCE_S = 0.25  # between two looks at how far the cells are


class LocalExecutor:
    """Processes of this machine; a context manager, at whose end, however it comes about, no cell is running.

    Args:
        cells_dir: The directory of all cells.
        workers: How many cells at a time.
    """

    def __init__(self, cells_dir: Path, workers: int) -> None:
        self._dir, self._workers = cells_dir, workers
        self._pids: dict[str, int] = {}
        self._buffer = b""

    def __enter__(self) -> Self:
        self._dir.mkdir(parents=True, exist_ok=True)
        with (self._dir / _LOG).open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "subspace_lab.comparison.nursery", str(os.getpid())],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                start_new_session=True,  # Ctrl-C is for this process, which tells the cells
            )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()  # interrupts the cells that are left
        try:
            self._process.wait()
        except KeyboardInterrupt:
            for pid in self._pids.values():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            raise
        finally:
            assert self._process.stdout is not None
            self._process.stdout.close()

    def run(
        self,
        todo: Sequence[Cell],
        begun: Callable[[Cell], None],
        ended: Callable[[Cell, str], None],
        look: Callable[[], None],
    ) -> None:
        """Train cells until all have ended.

        Args:
            todo: The cells, in this order.
            begun: Told when one begins.
            ended: Told when the process of one has ended, and what killed it (empty for nothing).
            look: Called several times a second.

        Raises:
            RunError: If the process that begins the cells is gone.
        """
        waiting, running = list(todo), dict[str, Cell]()
        while waiting or running:
            while waiting and len(running) < self._workers:
                cell = waiting.pop(0)
                running[cell.name] = cell
                self._send(cell)
                begun(cell)
            for answer in self._answers():
                if "pid" in answer:
                    self._pids[answer["name"]] = answer["pid"]
                else:
                    self._pids.pop(answer["name"], None)
                    ended(running.pop(answer["name"]), _reason(answer["exit"]))
            look()

    def _send(self, cell: Cell) -> None:
        attempt = read_record(record_path(self._dir, cell.name)).attempts + 1
        request = {"cells": str(self._dir), "name": cell.name, "config": cell.config.to_dict(), "attempt": attempt}
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._gone() from None

    def _answers(self) -> list[dict[str, Any]]:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], _PATIENCE_S)[0]:
            return []
        chunk = os.read(self._process.stdout.fileno(), 1 << 16)
        if not chunk:
            raise self._gone()
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        return [json.loads(line) for line in lines]

    def _gone(self) -> RunError:
        return RunError(
            f"the process that begins the cells is gone, see {self._dir / _LOG}; run the same command again"
        )


def _reason(status: int) -> str:
    if status >= 0:
        return f"ended with status {status} and left no record" if status else ""
    name = signal.Signals(-status).name
    memory = ", perhaps by the system for want of memory" if name == "SIGKILL" else ""
    return f"killed by {name}{memory}"
