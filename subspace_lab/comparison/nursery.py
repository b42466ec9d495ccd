"""A process that imports the libraries once and forks a fresh process for every cell that it is told to train.

``python -m subspace_lab.comparison.nursery`` reads requests from standard input, one JSON object a line with the
arguments of `run_cell`, and answers on standard output with ``{"name": ..., "pid": ...}`` when a cell begins and
``{"name": ..., "exit": ...}`` when its process has ended (minus the number of the signal that killed it). It never
computes anything itself, so that a fork of it is as good as a new process, begins in milliseconds instead of seconds,
and its peak memory is its own. A cell that dies takes nobody along. When standard input ends, the cells are interrupted
(they leave a checkpoint) and it ends after them.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

_CHUNK = 1 << 16


def main() -> None:
    """Serve until standard input ends and all cells have."""
    _import_all()
    waker = _wake_on_child()
    children: dict[int, str] = {}
    buffer, is_open = b"", True
    while is_open or children:
        ready, _, _ = select.select([waker, *([0] if is_open else [])], [], [])
        if 0 in ready:
            chunk = os.read(0, _CHUNK)
            is_open = bool(chunk)
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                _begin(json.loads(line), children)
            if not is_open:
                _interrupt(children)
        if waker in ready:
            os.read(waker, _CHUNK)
            _reap(children)


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
    pid = os.fork()
    if not pid:
        _become_cell(request)
    children[pid] = request["name"]
    _answer(name=request["name"], pid=pid)


def _become_cell(request: dict[str, Any]) -> None:
    """Train the cell and end the process, whatever happens; what it says goes into its log."""
    status = 1
    try:
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


def _interrupt(children: dict[int, str]) -> None:
    for pid in children:
        os.kill(pid, signal.SIGINT)


def _answer(**values: Any) -> None:
    try:
        print(json.dumps(values), flush=True)
    except BrokenPipeError:  # whoever asked is gone; the cells end by themselves
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


if __name__ == "__main__":
    main()
