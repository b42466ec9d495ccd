"""Running the trials that are missing, wave by wave: a trial begins when its parents are complete."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from subspace_lab.experiments.executors.base import Ended, Executor, Request
from subspace_lab.experiments.outcome import GOES_ON, Outcome, outcome_path, read_outcome, write_outcome
from subspace_lab.experiments.progress import TrialsProgress
from subspace_lab.experiments.recipe import WEIGHTS
from subspace_lab.experiments.trial import Trial
from subspace_lab.runs.lock import lock, unlock


def run_missing(
    trials_dir: Path,
    trials: Sequence[Trial],
    executor: Executor,
    *,
    names: Mapping[str, str] | None = None,
    parents: Collection[str] = (),
    plugins: Sequence[str] = (),
    metric: str = "eval_loss",
) -> None:
    """Run those of some trials that are not complete, and write an outcome of each.

    A trial is complete only while its parents' weights are those that it began from. One that was cut or killed is
    resumed; one that diverged or failed begins again; one whose parents are not complete waits.

    Args:
        trials_dir: The directory of all trials.
        trials: In this order; with their parents, unless these are complete.
        executor: Entered already; it stays open over all waves.
        names: Content hash to directory, of trials that are not in the directory of their own name, and of parents that
            are not among the trials.
        parents: Content hashes of trials from which others begin that are not among these; they keep their weights.
        plugins: Modules that the caller named.
        metric: Shown when a trial is complete.
    """
    trials = [*{trial.hash: trial for trial in trials}.values()]  # what is named twice runs once
    directories = {trial.hash: trial.name for trial in trials} | dict(names or {})
    is_parent = {parent for trial in trials for parent in trial.parents} | set(parents)

    def has_to_run(trial: Trial) -> bool:
        lacks_weights = trial.hash in is_parent and not has_weights(trials_dir, directories[trial.hash])
        return lacks_weights or not is_complete(trials_dir, trial, directories)

    tried: set[str] = set()
    while wave := [
        trial
        for trial in trials
        if trial.hash not in tried
        and has_to_run(trial)
        and all(parent in directories and has_weights(trials_dir, directories[parent]) for parent in trial.parents)
    ]:
        tried |= {trial.hash for trial in wave}
        requests = [
            _request(trials_dir, trial, directories, plugins, keeps_weights=trial.hash in is_parent) for trial in wave
        ]
        total = len(trials)
        done = total - sum(map(has_to_run, trials))
        with TrialsProgress(trials_dir, requests, total=total, done=done, metric=metric) as progress:
            executor.run(requests, _Recorder(trials_dir, requests, progress))


class _Recorder:
    """Writes the outcome of a trial whose process did not come to write one."""

    def __init__(self, trials_dir: Path, requests: Sequence[Request], progress: TrialsProgress) -> None:
        self._dir, self.begun, self.look, self._show = trials_dir, progress.begun, progress.look, progress.ended
        self._attempts = {request.name: request.attempt for request in requests}

    def ended(self, name: str, ended: Ended) -> None:
        outcome = read_outcome(self._dir, name)
        if outcome.attempts != self._attempts[name]:
            outcome = _without_word(outcome, ended, self._attempts[name])
            write_outcome(self._dir, name, outcome)
        self._show(name, outcome)


def _without_word(before: Outcome, ended: Ended, attempt: int) -> Outcome:
    """The outcome of a trial whose process ended without writing one."""
    if ended.how == "killed":
        return replace(before, status="killed", reason=ended.detail, attempts=attempt)
    return replace(before, status="failed", reason=f"{ended.detail or 'ended'} and left no record", attempts=attempt)


def has_weights(trials_dir: Path, name: str) -> bool:
    """Whether others can begin from the trial in a directory: it is complete, and its weights are there."""
    return read_outcome(trials_dir, name).status == "complete" and (trials_dir / name / WEIGHTS).is_file()


def is_complete(trials_dir: Path, trial: Trial, directories: Mapping[str, str]) -> bool:
    """Whether a trial is complete, begun from the weights that its parents have; removed ones count as the same."""
    outcome = read_outcome(trials_dir, directories.get(trial.hash, trial.name))
    if outcome.status != "complete":
        return False
    now = {parent: read_outcome(trials_dir, directories[parent]).weights
           for parent in trial.parents if parent in directories}  # fmt: skip
    return all(weights in {None, outcome.parents.get(parent)} for parent, weights in now.items())


def _request(
    trials_dir: Path, trial: Trial, directories: Mapping[str, str], plugins: Sequence[str], *, keeps_weights: bool
) -> Request:
    """What to ask of an executor; a trial that is begun again is emptied, and none may be running elsewhere."""
    name = directories[trial.hash]
    outcome, directory = read_outcome(trials_dir, name), trials_dir / name
    if directory.exists():
        unlock(lock(directory, take_over=False))
    if outcome.status not in GOES_ON:
        shutil.rmtree(directory, ignore_errors=True)
        outcome_path(trials_dir, name).unlink(missing_ok=True)
    return Request(
        str(trials_dir), name, trial.recipe, dict(trial.config),
        parents={parent: directories[parent] for parent in trial.parents}, attempt=outcome.attempts + 1,
        keeps_weights=keeps_weights, plugins=tuple(plugins),
    )  # fmt: skip
