"""What ends a training before its last step: Ctrl-C, or a loss that is no longer finite.

At Ctrl-C the step is finished, a checkpoint is written, and the message says how to go on.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from subspace_lab.runs.errors import RunError, in_shell

_SECOND = "press Ctrl-C again to stop at once (resuming then goes on from the last checkpoint)"


class DivergedError(RunError):
    """The loss or the gradient is no longer finite; the run keeps what it had until then."""


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C was pressed; the run is sound and its message says how to go on with it.

    Attributes:
        run_dir: The run directory.
        step: Steps taken; there is a checkpoint after them.
    """

    def __init__(self, run_dir: Path, step: int) -> None:
        super().__init__(f"interrupted at step {step}; resume with: subspace-lab train {in_shell(run_dir)} --resume")
        self.run_dir = run_dir
        self.step = step


class Interrupt:
    """Whether Ctrl-C was pressed.

    Attributes:
        asked: True from the first Ctrl-C on.
    """

    asked = False


@contextmanager
def catch_interrupt() -> Iterator[Interrupt]:
    """Turn the first Ctrl-C into a flag; the second one kills the process at once.

    Outside of the main thread, where Python delivers no signals, nothing is changed.

    Yields:
        The flag.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def first(_signal: int, _frame: FrameType | None) -> None:
        interrupt.asked = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # the bar hides it, and who is killed cannot show it again
        print(f"{cursor}\nstopping after this step; {_SECOND}", file=sys.stderr, flush=True)

    before: Any = signal.signal(signal.SIGINT, first)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
