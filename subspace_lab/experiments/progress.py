"""Progress while trials run: bars on a terminal; elsewhere a line for every trial that has ended."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from rich import progress
from rich.console import Console

from subspace_lab._reading import open_regular
from subspace_lab.experiments.executors.base import Request
from subspace_lab.experiments.outcome import Outcome

_TAIL = 4096  # bytes that hold the last lines of a file of metrics


class TrialsProgress:
    """Progress on standard error of some requests, where `done` of `total` trials ended before; a context manager."""

    def __init__(self, trials_dir: Path, requests: Sequence[Request], *, total: int, done: int, metric: str) -> None:
        self._dir, self._total, self._done, self._metric = trials_dir, total, done, metric
        self._steps = {request.name: request.config.get("steps") for request in requests}
        self._console = Console(stderr=True)
        self._bars = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(bar_width=20),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[loss]}", markup=False),
            progress.TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._all = self._bars.add_task("trials", total=total, completed=done, loss="")
        self._tasks: dict[str, progress.TaskID] = {}

    def __enter__(self) -> Self:
        if self._done:
            self._say(f"{self._done} of {self._total} trials ended before")
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._bars.stop()
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._say("stopping: the trials finish their step and write a checkpoint; Ctrl-C again kills them")

    def begun(self, name: str) -> None:
        """Show a trial as running."""
        self._tasks[name] = self._bars.add_task(name, total=self._steps[name], loss="")

    def ended(self, name: str, outcome: Outcome) -> None:
        """Print the outcome of a trial."""
        self._done += 1
        self._bars.remove_task(self._tasks.pop(name))
        self._bars.update(self._all, completed=self._done)
        value = outcome.metrics.get(self._metric)
        how = f"{self._metric} {value:.4f}" if outcome.status == "complete" and value is not None else outcome.status
        reason = f" ({outcome.reason})" if outcome.reason else ""
        self._say(f"{self._done}/{self._total} {name}: {how}{reason}")

    def look(self) -> None:
        """Update the bars of the running trials."""
        if not self._console.is_terminal:
            return
        for name, task in self._tasks.items():
            if last := last_line(self._dir / name / "metrics.jsonl"):
                loss = f"loss {last['loss']:.3f}" if "loss" in last else ""
                self._bars.update(task, completed=last["step"] + 1, loss=loss)

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def last_line(path: Path) -> dict[str, Any]:
    """The last whole line of a file of metrics that may be written right now; empty where there is none."""
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            lines = file.read().split(b"\n")[:-1]
        line = json.loads(lines[-1]) if lines else {}
    except (OSError, ValueError):
        return {}
    return line if isinstance(line, dict) and "step" in line else {}
