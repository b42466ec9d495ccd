"""Trials that several processes share, started by torchrun: one after the other on this machine, or each in its job.

torchrun starts ``python -m subspace_lab.experiments.executors.torchrun TRIALS NAME`` in each process, which runs the
trial whose request lies beside its directory. When the process that started torchrun is gone, torchrun is interrupted,
and its processes leave a checkpoint; when torchrun itself is killed, so are they.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from subspace_lab.experiments.executors.base import Ended, Executor, Request, Watcher
from subspace_lab.experiments.executors.parent import end_with_parent
from subspace_lab.runs.files import publish_json
from subspace_lab.runs.manifest import MANIFEST

_PATIENCE_S = 0.5  # between two looks at how far a trial is
_MODULE = "subspace_lab.experiments.executors.torchrun"
_WATCHED = "subspace_lab.experiments.executors.parent"


class TorchrunExecutor(Executor):
    """One trial at a time, shared by `processes`: one per GPU where there are GPUs."""

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._running: subprocess.Popen[bytes] | None = None

    def __exit__(self, *_: object) -> None:
        if self._running is not None:
            _stop(self._running)

    def run(self, trials: Sequence[Request], watch: Watcher) -> None:
        """See `Executor.run`."""
        for request in trials:
            self._running = _begin(request, self._processes)
            watch.begun(request.name)
            while self._running.poll() is None:
                watch.look()
                try:
                    self._running.wait(_PATIENCE_S)
                except subprocess.TimeoutExpired:
                    continue
            watch.ended(request.name, _ended(self._running, request.name))


def run_in_job(request: Request, *, processes: int) -> Ended:
    """Run a trial in several processes of this job, or resume it, and wait for them."""
    running = _begin(request, processes)
    try:
        running.wait()
    except KeyboardInterrupt:
        _stop(running)
    return _ended(running, request.name)


def _begin(request: Request, processes: int) -> subprocess.Popen[bytes]:
    trials_dir = Path(request.trials_dir)
    trials_dir.mkdir(parents=True, exist_ok=True)
    resume = (trials_dir / request.name / MANIFEST).exists()  # once for all processes
    publish_json(_path(trials_dir, request.name), asdict(replace(request, resume=resume)))
    words = command(trials_dir, request.name, processes)[1:]
    with (trials_dir / f"{request.name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", _WATCHED, str(os.getpid()), *words],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **request.environment},
            start_new_session=True,  # Ctrl-C reaches this process, which interrupts torchrun
        )  # fmt: skip


def _stop(running: subprocess.Popen[bytes]) -> None:
    """Interrupt torchrun, which interrupts the processes and gives them half a minute for a checkpoint."""
    if running.poll() is None:
        running.send_signal(signal.SIGINT)
        running.wait()


def _ended(running: subprocess.Popen[bytes], name: str) -> Ended:
    """A process that fails writes that into the outcome; torchrun fails only if one was killed."""
    if not running.returncode:
        return Ended("finished")
    return Ended("killed", f"killed, torchrun ended with status {running.returncode}, see {name}.log")


def command(trials_dir: Path, name: str, processes: int) -> list[str]:
    """The words of the command that runs a trial; ``python -m torch.distributed.run`` is torchrun."""
    torchrun = ["python", "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*torchrun, "-m", _MODULE, str(trials_dir), name]


def _path(trials_dir: Path, name: str) -> Path:
    return trials_dir / f"{name}.request.json"


def main(trials_dir: str, name: str) -> None:
    """Run a trial in one of its processes."""
    end_with_parent(os.getppid())
    from subspace_lab.experiments.run_trial import run_trial

    request: Mapping[str, Any] = json.loads(_path(Path(trials_dir), name).read_text(encoding="utf-8"))
    run_trial(Request(**request))


if __name__ == "__main__":
    main(*sys.argv[1:])
