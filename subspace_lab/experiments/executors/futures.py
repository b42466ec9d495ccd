"""Calls as jobs of Slurm, by submitit, with the futures of `concurrent.futures`: what analyses are spread over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from subspace_lab._extras import require
from subspace_lab.experiments.executors.slurm import check_cluster, check_options
from subspace_lab.runs import RunError

_PATIENCE_S = 2.0  # between two looks at the jobs


class SlurmFutures(Executor):
    """A job for each call, at most so many at a time.

    Function, arguments and result go through pickles of submitit's in the folder, which are removed when a job has
    ended: nothing that is there when a command begins is ever read.

    Args:
        folder: For scripts, logs and results of the jobs; the nodes must see it under the same path.
        workers: Jobs at a time; None for as many as Slurm gives.
        options: Of Slurm: ``{"partition": "cpu", "time": 60}``.
        cluster: ``slurm``, or one of submitit's stand-ins.

    Raises:
        ValueError: If this machine has no Slurm, or an option is not known.
        ModuleNotFoundError: Without the packages of the extra ``slurm``.
    """

    def __init__(
        self, folder: Path, workers: int | None = None, options: Mapping[str, Any] | None = None, cluster: str = "slurm"
    ) -> None:
        check_options(options or {})
        check_cluster(cluster)
        self._submitit = require("submitit", extra="slurm").AutoExecutor(folder=folder / "%j", cluster=cluster)
        slurm = {f"slurm_{name}": value for name, value in (options or {}).items()}
        self._submitit.update_parameters(**{"name": "subspace-lab", **slurm})
        self._workers = workers
        self._waiting: list[tuple[Future[Any], tuple[Any, ...]]] = []
        self._running: dict[Future[Any], Any] = {}
        self._is_open, self._watcher = True, threading.Thread(target=self._watch, daemon=True)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See `concurrent.futures.Executor.submit`; function, arguments and result are pickled."""
        future: Future[Any] = Future()
        self._waiting.append((future, (fn, args, kwargs)))
        if not self._watcher.ident:
            self._watcher.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See `concurrent.futures.Executor.shutdown`; jobs of calls that were cancelled are cancelled."""
        if cancel_futures:
            for future in [*self._running, *(future for future, _ in self._waiting)]:
                future.cancel()
        self._is_open = False
        if wait and self._watcher.ident:
            self._watcher.join()

    def _watch(self) -> None:
        while self._is_open or self._waiting or self._running:
            while self._waiting and (self._workers is None or len(self._running) < self._workers):
                future, call = self._waiting.pop(0)
                if not future.cancelled():
                    self._begin(future, call)
            for future, job in list(self._running.items()):
                if future.cancelled():
                    job.cancel(check=False)
                    del self._running[future]
                    _remove_pickles(job)
                elif job.done():
                    del self._running[future]
                    _conclude(future, job)
                    _remove_pickles(job)
            time.sleep(_PATIENCE_S if self._running else _PATIENCE_S / 10)

    def _begin(self, future: Future[Any], call: tuple[Any, ...]) -> None:
        try:
            self._running[future] = self._submitit.submit(_outcome, *call)
        except Exception as error:  # submitit's, for an error of sbatch
            line = next(iter(str(error).splitlines()), "sbatch failed")
            future.set_exception(RunError(f"Slurm did not take the jobs ({line}); correct the options of Slurm"))


def _outcome(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Exception | None]:
    """What a call returns or raises, in its job."""
    try:
        return fn(*args, **kwargs), None
    except Exception as error:
        return None, error


def _conclude(future: Future[Any], job: Any) -> None:
    if not future.set_running_or_notify_cancel():
        return
    failure = job.exception()
    if failure is not None:
        line = next(iter(str(failure).splitlines()), "")
        future.set_exception(RunError(f"job {job.job_id} ended as {job.state}: {line}; begin the command again"))
        return
    result, error = job.result()
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def _remove_pickles(job: Any) -> None:
    for path in (job.paths.submitted_pickle, job.paths.result_pickle):
        path.unlink(missing_ok=True)
