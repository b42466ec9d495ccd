"""Trials in processes of this machine."""

from __future__ import annotations

import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from subspace_lab.experiments.executors.base import Ended, Executor, Request, Watcher
from subspace_lab.runs import RunError

_LOG = ".fork_server.log"
_PATIENCE_S = 0.25  # between two looks at how far the trials are


class LocalExecutor(Executor):
    """Processes of this machine, as many at a time as there are `places`.

    Args:
        trials_dir: The directory of all trials.
        places: Environment variables of each worker's processes.
    """

    def __init__(self, trials_dir: Path, places: Sequence[Mapping[str, str]]) -> None:
        self._dir, self._free = trials_dir, [dict(place) for place in places]
        self._pids: dict[str, int] = {}
        self._buffer = b""
        self._server: subprocess.Popen[bytes] | None = None

    def __exit__(self, *_: object) -> None:
        if self._server is None:
            return
        server, self._server = self._server, None
        assert server.stdin is not None
        assert server.stdout is not None
        with suppress(BrokenPipeError):
            server.stdin.close()  # interrupts the trials that are left
        try:
            server.wait()
        except KeyboardInterrupt:
            for pid in self._pids.values():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            raise
        finally:
            server.stdout.close()

    def _started(self) -> subprocess.Popen[bytes]:
        """The server, started with the first trial since it imports the libraries."""
        if self._server is None:
            self._dir.mkdir(parents=True, exist_ok=True)
            with (self._dir / _LOG).open("wb") as log:
                self._server = subprocess.Popen(
                    [sys.executable, "-m", "subspace_lab.experiments.executors.fork_server", str(os.getpid())],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                    start_new_session=True,  # Ctrl-C reaches this process, which interrupts the trials
                )  # fmt: skip
        return self._server

    def run(self, trials: Sequence[Request], watch: Watcher) -> None:
        """See `Executor.run`."""
        waiting, running = list(trials), dict[str, dict[str, str]]()
        while waiting or running:
            while waiting and self._free:
                request = waiting.pop(0)
                running[request.name] = place = self._free.pop(0)
                self._send(dataclasses.replace(request, environment={**request.environment, **place}))
                watch.begun(request.name)
            for answer in self._answers():
                if "pid" in answer:
                    self._pids[answer["name"]] = answer["pid"]
                else:
                    self._pids.pop(answer["name"], None)
                    self._free.append(running.pop(answer["name"]))
                    watch.ended(answer["name"], _ended(answer["exit"]))
            watch.look()

    def _send(self, request: Request) -> None:
        to_server = self._started().stdin
        assert to_server is not None
        try:
            to_server.write(json.dumps(dataclasses.asdict(request)).encode() + b"\n")
            to_server.flush()
        except BrokenPipeError:
            raise self._gone() from None

    def _answers(self) -> list[dict[str, Any]]:
        from_server = self._started().stdout
        assert from_server is not None
        if not select.select([from_server], [], [], _PATIENCE_S)[0]:
            return []
        chunk = os.read(from_server.fileno(), 1 << 16)
        if not chunk:
            raise self._gone()
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        return [json.loads(line) for line in lines]

    def _gone(self) -> RunError:
        log = self._dir / _LOG
        return RunError(f"the process that starts the trials is gone, see {log}; run the same command again")


def _ended(status: int) -> Ended:
    if not status:
        return Ended("finished")
    if status > 0:
        return Ended("failed", f"ended with status {status}")
    name = signal.Signals(-status).name
    memory = ", perhaps by the system because memory ran out" if name == "SIGKILL" else ""
    return Ended("killed", f"killed by {name}{memory}")
