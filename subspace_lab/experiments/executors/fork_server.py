"""A process that imports the libraries once and forks a fresh process for every requested trial.

``python -m subspace_lab.experiments.executors.fork_server PID``, started by PID, reads requests from standard input,
one JSON object a line, and answers on standard output with ``{"name": ..., "pid": ...}`` when a trial begins and
``{"name": ..., "exit": ...}`` when its process has ended (minus the number of the signal that killed it). The server
computes nothing itself, so that a fork of it is as good as a new process, starts in milliseconds instead of seconds,
and has a peak memory of its own. A trial that dies affects no other. `multiprocessing` is not used because its fresh
processes import the caller's main module again.

When standard input ends, the trials are interrupted (they leave a checkpoint) and the server ends after them. When PID
is gone, even by SIGKILL, the same happens, and trials that need longer than some seconds are killed; when the server
itself is killed, so are its trials. So no trial is still running when the same command is started again.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import select
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from subspace_lab.experiments.executors.parent import end_with_parent

_CHUNK = 1 << 16
_PATIENCE_S = 0.5  # between two looks at the parent
_GRACE_S = 10.0  # for a checkpoint, when the parent is gone


def main() -> None:
    """Serve until standard input and all trials have ended."""
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

    import subspace_lab.experiments.run_trial  # noqa: F401

    torch.set_num_threads(1)


def _wake_on_child() -> int:
    """A file descriptor that becomes readable when a child has ended."""
    waker, alarm = os.pipe()
    os.set_blocking(alarm, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(alarm)
    return waker


def _begin(request: dict[str, Any], children: dict[int, str]) -> None:
    server = os.getpid()
    _import_shipped(request["recipe"].partition(":")[0])
    pid = os.fork()
    if not pid:
        _become_trial(request, server)
    children[pid] = request["name"]
    _answer(name=request["name"], pid=pid)


@functools.cache
def _import_shipped(module: str) -> None:
    """Import the module of a recipe of this package, once for all trials; a plug-in is imported by the trials alone.

    Its ``warm_up``, where it has one, computes what every trial would compute anew.
    """
    from subspace_lab.experiments.plugins import is_shipped

    if is_shipped(module):
        with suppress(ImportError):  # the trial will say so
            found = importlib.import_module(module)
            if hasattr(found, "warm_up"):
                found.warm_up()


def _become_trial(request: dict[str, Any], server: int) -> None:
    """Run the trial and end the process, whatever happens; its output goes into its log."""
    status = 1
    try:
        end_with_parent(server)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log_file = Path(request["trials_dir"], f"{request['name']}.log")
        log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(request["environment"])
        from subspace_lab.experiments.executors.base import Request
        from subspace_lab.experiments.run_trial import run_trial

        run_trial(Request(**request))
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
    except BrokenPipeError:  # the reader is gone; the trials end by themselves
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


if __name__ == "__main__":
    main()
