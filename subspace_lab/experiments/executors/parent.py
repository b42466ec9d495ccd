"""Processes that end with the process that began them, however that one ends.

``python -m subspace_lab.experiments.executors.parent PID ...`` becomes the Python that the further words describe; it
is interrupted when PID, the process that began it, is gone.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

_PR_SET_PDEATHSIG = 1
_PATIENCE_S = 0.5  # between two looks at the parent, where the kernel does not watch it


def end_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Have this process signalled as soon as its parent is gone, even by SIGKILL.

    On Linux the kernel sends the signal at once; elsewhere a thread looks twice a second.

    Args:
        parent: PID of the process that started this one; it may be gone already.
        number: SIGKILL, or SIGINT for a process that leaves a checkpoint.
    """
    if not _asked_of_kernel(number):
        threading.Thread(target=_watch, args=(parent, number), daemon=True).start()
    if os.getppid() != parent:  # it ended before it was watched
        os.kill(os.getpid(), number)


def _asked_of_kernel(number: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    return bool(ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) == 0)


def _watch(parent: int, number: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PATIENCE_S)
    os.kill(os.getpid(), number)


def main(parent: int, words: list[str]) -> None:
    """Become another Python process, which Linux (no other system) interrupts when its parent is gone."""
    end_with_parent(parent, signal.SIGINT)
    os.execv(sys.executable, [sys.executable, *words])


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
