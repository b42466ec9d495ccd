"""Trials that several processes share, begun by torchrun: one after the other on this machine, or each in its job.

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
from typing import Any, Self

from subspace_lab.experiments.executors.base import Ended, Executor, Request, Watcher
from subspace_lab.experiments.executors.parent import end_with_parent
from subspace_lab.experiments.recipe import is_shared
from subspace_lab.experiments.run_trial import run_trial
from subspace_lab.runs.files import publish_json
from subspace_lab.runs.manifest import MANIFEST
from subspace_lab.training.sharding import SHARDING

_PATIENCE_S = 0.5  # between two looks at how far a trial is
_MODULE = "subspace_lab.experiments.executors.torchrun"
_WATCHED = "subspace_lab.experiments.executors.parent"


class TorchrunExecutor(Executor):
    """One trial at a time, shared by several processes; then the trials that are of one process each.

    Args:
        processes: Of a trial: one per GPU where there are GPUs.
        sharding: How they share a training.
        alone: Runs the trials that several processes cannot share.
    """

    def __init__(self, processes: int, sharding: str | None, alone: Executor) -> None:
        self._processes, self._sharding, self._alone = processes, sharding, alone
        self._running: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._alone.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            if self._running is not None:
                _stop(self._running)
        finally:
            self._alone.__exit__(*error)

    def run(self, trials: Sequence[Request], watch: Watcher) -> None:
        """See `Executor.run`."""
        shared = [request for request in trials if _is_shared(request)]
        for request in shared:
            self._running = _begin(request, self._processes, self._sharding)
            watch.begun(request.name)
            while self._running.poll() is None:
                watch.look()
                try:
                    self._running.wait(_PATIENCE_S)
                except subprocess.TimeoutExpired:
                    continue
            watch.ended(request.name, _ended(self._running, request.name))
        if rest := [request for request in trials if request not in shared]:
            self._alone.run(rest, watch)


def _is_shared(request: Request) -> bool:
    return is_shared(request.recipe, request.config, request.plugins)


def run_in_job(request: Request, *, processes: int, sharding: str | None = None) -> Ended | None:
    """Run a trial, or resume it, in several processes of this job, or in itself where they cannot share it."""
    if not _is_shared(request):
        run_trial(request)
        return None
    running = _begin(request, processes, sharding)
    try:
        running.wait()
    except KeyboardInterrupt:
        _stop(running)
    return _ended(running, request.name)


def _begin(request: Request, processes: int, sharding: str | None = None) -> subprocess.Popen[bytes]:
    trials_dir = Path(request.trials_dir)
    trials_dir.mkdir(parents=True, exist_ok=True)
    resume = (trials_dir / request.name / MANIFEST).exists()  # once for all processes
    publish_json(_path(trials_dir, request.name), asdict(replace(request, resume=resume)))
    words = command(trials_dir, request.name, processes)[1:]
    shared_as = {} if sharding is None else {SHARDING: sharding}
    with (trials_dir / f"{request.name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", _WATCHED, str(os.getpid()), *words],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **request.environment, **shared_as},
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
    request: Mapping[str, Any] = json.loads(_path(Path(trials_dir), name).read_text(encoding="utf-8"))
    run_trial(Request(**request))


if __name__ == "__main__":
    main(*sys.argv[1:])
