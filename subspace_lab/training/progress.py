"""What a training run says while it runs: a bar on a terminal, a few plain lines anywhere else."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich import progress
from rich.console import Console

_LINES = 20


class TrainingProgress:
    """Progress on standard error; a context manager.

    Args:
        start: First step.
        steps: All steps of the run.
        shown: False for a process that keeps quiet.
    """

    def __init__(self, *, start: int, steps: int, shown: bool) -> None:
        self._start, self._steps = start, steps
        self._between = max(1, steps // _LINES)
        self._console = Console(stderr=True, quiet=not shown)
        self._bar = progress.Progress(
            progress.TextColumn("training"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.description}"),
            progress.TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=steps, completed=start)

    def __enter__(self) -> Self:
        if self._start:
            self._console.print(f"resuming at step {self._start}/{self._steps}", highlight=False)
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, step: int, loss: float, eval_loss: float | None, seconds: float) -> None:
        """Say how a step went.

        Args:
            step: The step.
            loss: Its training loss.
            eval_loss: The held-out loss, None for a step without evaluation.
            seconds: How long it took.
        """
        held_out = "" if eval_loss is None else f", held-out {eval_loss:.3f}"
        if self._console.is_terminal:
            self._bar.update(self._task, completed=step + 1, description=f"loss {loss:.3f}, {seconds:.2f} s/step")
        if held_out or (not self._console.is_terminal and (step % self._between == 0 or step == self._steps - 1)):
            text = f"step {step}/{self._steps}: loss {loss:.3f}{held_out}, {seconds:.2f} s/step"
            self._console.print(text, highlight=False)
