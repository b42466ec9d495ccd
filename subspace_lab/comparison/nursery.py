"""A process that imports the libraries once and forks a fresh process for every cell that it is told to train.

``python -m subspace_lab.comparison.nursery PID``, begun by PID, reads requests from standard input, one JSON object a
line with the arguments of `run_cell`, and answers on standard output with ``{"name": ..., "pid": ...}`` when a cell
begins and ``{"name": ..., "exit": ...}`` when its process has ended (minus the number of the signal that killed it). It
never computes anything itself, so that a fork of it is as good as a new process, begins in milliseconds instead of
seconds, and its peak memory is its own. A cell that dies takes nobody along.

When standard input ends, the cells are interrupted (they leave a checkpoint) and it ends after them. When PID is gone,
be it by SIGKILL, the same happens, and cells that take longer than some seconds are killed; when it is killed itself,
so are its cells. So none trains on behind the back of the same command begun again.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from subspace_lab.comparison.parent import end_with_parent

_CHUNK = 1 << 16
_PATIENCE_S = 0.5  # between two looks at whether the process that asks is there
_GRACE_S = 10.0  # for a checkpoint, when it is not


def main() -> None:
    """Serve until standard input ends and all cells have."""
    parent = int(sys.argv[1])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell begins in the background
    _import_all()
    waker = _wake_on_child()
    children: dict[int, str] = {}
    buffer, is_open, deadline = b"", True, float("inf")
    while is_open or children:
        ready, _, _ = select.select([waker, *([0] if is_open else [])], [], [], _PATIENCE_S)
        if 0 in ready:
            chunk = os.read(0, _CHUNK)
            is_open = bool(chunk)
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                _begin(json.loads(line), children)
            if not is_open:
                _signal(children, signal.SIGINT)
        if waker in ready:
            os.read(waker, _CHUNK)
            _reap(children)
        if deadline == float("inf") and os.getppid() != parent:
            deadline = time.monotonic() + _GRACE_S
            if is_open:  # another process that it forked holds the other end
                is_open = False
                _signal(children, signal.SIGINT)
        if time.monotonic() > deadline:
            _signal(children, signal.SIGKILL)


def _import_all() -> None:
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401

    import subspace_lab.comparison.cell  # noqa: F401

    torch.set_num_threads(1)


def _wake_on_child() -> int:
    """A file descriptor that becomes readable when a child has ended."""
    waker, alarm = os.pipe()
    os.set_blocking(alarm, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(alarm)
    return waker


def _begin(request: dict[str, Any], children: dict[int, str]) -> None:
    nursery = os.getpid()
    pid = os.fork()
    if not pid:
        _become_cell(request, nursery)
    children[pid] = request["name"]
    _answer(name=request["name"], pid=pid)


def _become_cell(request: dict[str, Any], nursery: int) -> None:
    """Train the cell and end the process, whatever happens; what it says goes into its log."""
    status = 1
    try:
        end_with_parent(nursery)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(Path(request["cells"], f"{request['name']}.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        from subspace_lab.comparison.cell import run_cell

        run_cell(**request)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _reap(children: dict[int, str]) -> None:
    for pid in list(children):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            _answer(name=children.pop(pid), exit=os.waitstatus_to_exitcode(status))


def _signal(children: dict[int, str], number: int) -> None:
    for pid in children:
        os.kill(pid, number)


def _answer(**values: Any) -> None:
    try:
        print(json.dumps(values), flush=True)
    except BrokenPipeError:  # whoever asked is gone; the cells end by themselves
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


if __name__ == "__main__":
    main()
