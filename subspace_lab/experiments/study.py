"""A study: its trials, what is measured in them, what is drawn; and how it is conducted.

``conduct`` runs missing trials, phase by phase, reads their results into the tables, makes the derived tables and draws
them. After an interruption at any instant, the same call continues.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from subspace_lab._text import count
from subspace_lab.experiments.executors.base import Executor
from subspace_lab.experiments.grid import Phase, Wanted, unique
from subspace_lab.experiments.outcome import read_outcome
from subspace_lab.experiments.schedule import has_weights, is_complete, run_missing
from subspace_lab.experiments.store import TABLES, Store
from subspace_lab.experiments.trial import Trial
from subspace_lab.figures.all import save_all
from subspace_lab.figures.style import Picture
from subspace_lab.runs import RunError


class StudyInterrupted(KeyboardInterrupt):
    """Ctrl-C was pressed; the results so far are written and drawn, and the same command continues.

    Attributes:
        path: The directory of the study.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(f"interrupted; the same command goes on with {path}")
        self.path = path


@dataclass(frozen=True)
class Quantity:
    """One table of a study, with the trials that it needs and its pictures.

    Attributes:
        title: A few words.
        phases: Its trials.
        measure: Makes its table from those in the store, empty while they hold too little; None for no table.
        columns: The kinds of the table's columns.
        pictures: Drawn from the table, by file name.
    """

    title: str
    phases: tuple[Phase, ...] = ()
    measure: Callable[[Any], pd.DataFrame] | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    pictures: Mapping[str, Picture] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """The description of a study.

    Attributes:
        quantities: By name, in the order in which they are made.
        absorb: Makes further tables from the directories of trials that have become complete, given their rows.
        data_hash: Reads the data of the trials and returns their hash; None for trials without data.
        finish: Writes what is made of all tables (a page, a report); called after every quantity that changed.
        pictures: Directory of the pictures; that of the study by default.
        seconds: Expected duration of a trial, for the estimate before one was measured.
        plugins: Modules of recipes that the caller named.
    """

    quantities: Mapping[str, Quantity]
    absorb: Callable[[Any, pd.DataFrame], None] = lambda *_: None
    data_hash: Callable[[], str] | None = None
    finish: Callable[[Store], None] = lambda _: None
    pictures: Path | None = None
    seconds: float | None = None
    plugins: Sequence[str] = ()

    def wanted(self, store: Store | None, names: Iterable[str]) -> list[Wanted]:
        """The one enumeration of trials: what is trained, counted and listed without being trained.

        Args:
            store: Results so far; None for no results.
            names: Quantities.

        Returns:
            Each trial once, including those whose setting is not known yet.
        """
        rows_of = (lambda _: pd.DataFrame()) if store is None else store.rows_of
        phases = (phase for name in names for phase in self.quantities[name].phases)
        return unique(one for phase in phases for one in phase.wanted(rows_of))


@dataclass(frozen=True)
class Outlook:
    """The remaining work.

    Attributes:
        there: Number of trials that have ended.
        left: Number of trials to run.
        seconds: Duration of these, one after the other; None where it is not known.
    """

    there: int
    left: int
    seconds: float | None

    def in_words(self, workers: int | None) -> str:
        """``about 66 minutes, 2 at a time``; with `workers` None, the time of all trials one after the other."""
        at_a_time = f"{workers} at a time" if workers else "one after the other; as many at a time as Slurm gives"
        if self.seconds is None:
            return at_a_time
        left = self.seconds / (workers or 1)
        if left < 90:
            length = f"about {max(1, round(left))} seconds"
        elif left < 100 * 60:
            length = f"about {round(left / 60)} minutes"
        else:
            length = f"about {round(left / 3600)} hours"
        return f"{length}, {at_a_time}" if workers else f"{length} {at_a_time}"


def outlook(study: Study, store: Store, names: Iterable[str], retry: Collection[str] = ()) -> Outlook:
    """Count the trials that quantities need and the tables lack, each expected to last as long as the median so far."""
    wanted = study.wanted(store, names)
    known = len({one.trial.hash for one in wanted if one.is_known})
    left = len(store.missing([one.trial for one in wanted if one.is_known], retry=retry))
    waiting = sum(not one.is_known for one in wanted)
    table = store.results
    one = study.seconds if table.empty or table["wall_s"].isna().all() else float(table["wall_s"].median())
    total = left + waiting
    return Outlook(known - left, total, None if one is None else total * one)


def conduct(
    study: Study,
    store: Store,
    executor: Executor,
    *,
    names: Sequence[str] | None = None,
    workers: int | None = None,
    retry: Collection[str] = (),
    recompute: bool = False,
) -> None:
    """Run what is missing, measure, draw; this process is the only writer of the store meanwhile.

    Args:
        study: The study.
        store: Its tables.
        executor: Entered once for all trials.
        names: Quantities; all by default.
        workers: Trials at a time, for the estimate of the time.
        retry: Statuses whose trials are run again, of ``diverged`` and ``failed``; cut and killed ones always are.
        recompute: Forget the trials of the quantities and run them again.

    Raises:
        StudyInterrupted: After Ctrl-C; trials that were running have left a checkpoint.
        RunError: If the data are not those of the tables, or a table cannot be drawn.
    """
    chosen = [*study.quantities] if names is None else [*names]
    with store.writing():
        _absorb(study, store)
        if recompute:
            _forget(study, store, chosen)
        store.enroll(_known(study, store, chosen))
        _absorb(study, store)
        if (left := outlook(study, store, chosen, retry)).left and left.seconds is not None:
            say(f"{count(left.there, 'trial')} complete, {left.left} to come: {left.in_words(workers)}")
        try:
            with executor:
                for name in chosen:
                    changed = _run(study, store, name, executor, retry=retry)
                    if _conclude(study, store, name, again=changed) or changed:
                        study.finish(store)
            study.finish(store)
            _say_what_failed(study, store, chosen, retry)
        except KeyboardInterrupt:
            _absorb(study, store)
            for name in chosen:
                _conclude(study, store, name, again=True)
            study.finish(store)
            raise StudyInterrupted(store.path) from None


def _run(study: Study, store: Store, name: str, executor: Executor, *, retry: Collection[str]) -> bool:
    """Run the trials that a quantity lacks, phase by phase; whether there were any."""
    tried: set[str] = set()
    for phase in study.quantities[name].phases:
        while trials := [one for one in _missing(study, phase, store, retry) if one.hash not in tried]:
            every = _every(study, store)
            if study.data_hash is not None:
                store.check_data(study.data_hash())
            if len(study.quantities) > 1:
                say(f"{name} ({study.quantities[name].title}): {count(len(trials), 'trial')}")
            run_missing(
                store.trials_dir, trials, executor, names=_directories(store, every),
                parents={parent for one in every.values() for parent in one.parents}, plugins=study.plugins,
                retry=True, metric=store.kind.metric.name,
            )  # fmt: skip
            tried |= {one.hash for one in trials}
            _absorb(study, store)
    return bool(tried)


def _missing(study: Study, phase: Phase, store: Store, retry: Collection[str]) -> list[Trial]:
    """The trials of a phase that have to run, those of which the parents have other weights now, and their parents."""
    known = [one.trial for one in phase.wanted(store.rows_of) if one.is_known]
    store.enroll(known)
    _absorb(study, store)  # what is there although the result table was lost
    left = store.missing(known, retry=retry)
    if not any(one.parents for one in known):
        return left
    every = _every(study, store)
    directories = _directories(store, every)
    left += [one for one in known if one not in left and _is_stale(store, one, directories)]
    found: dict[str, Trial] = {}

    def add(trial: Trial) -> None:
        if trial.hash in found:
            return
        found[trial.hash] = trial
        for parent in (every[one] for one in trial.parents if one in every):
            is_missing = bool(store.missing([parent], retry=retry))
            is_complete = not is_missing and set(store.rows_of([parent])["status"]) == {"complete"}
            if is_missing or (is_complete and not has_weights(store.trials_dir, directories[parent.hash])):
                add(parent)

    for one in left:
        add(one)
    store.enroll([*found.values()])
    return [*found.values()]


def _is_stale(store: Store, trial: Trial, directories: Mapping[str, str]) -> bool:
    """Whether a complete trial began from other weights than its parents have now."""
    outcome = read_outcome(store.trials_dir, directories[trial.hash])
    return outcome.status == "complete" and not is_complete(store.trials_dir, trial, directories)


def _every(study: Study, store: Store) -> dict[str, Trial]:
    """All trials of a study that are known so far, by content hash."""
    return {trial.hash: trial for trial in _known(study, store, study.quantities)}


def _directories(store: Store, trials: Mapping[str, Trial]) -> dict[str, str]:
    return {content: store.cell_of(trial) for content, trial in trials.items()}


def _known(study: Study, store: Store, names: Iterable[str]) -> list[Trial]:
    return [one.trial for one in study.wanted(store, names) if one.is_known]


def _absorb(study: Study, store: Store) -> None:
    store.refresh(lambda rows: study.absorb(store, rows))


def _conclude(study: Study, store: Store, name: str, *, again: bool) -> bool:
    """Make the table of a quantity where it has to be made, and draw it."""
    quantity = study.quantities[name]
    if quantity.measure is None:
        return False
    made = again or not store.has(name)
    if made:
        table = quantity.measure(store)
        if table.empty:
            return False
        store.write(name, table)
    table = store.read(name, quantity.columns)
    try:
        save_all(quantity.pictures, table, study.pictures or store.path)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # of values that cannot be right
        problem = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        raise RunError(
            f"{store.path / TABLES / name}.parquet cannot be drawn ({problem}); remove it, and it is made again"
        ) from error
    return made


def _forget(study: Study, store: Store, names: Iterable[str]) -> None:
    store.forget(_known(study, store, names))
    for name in names:
        store.remove(name)


def _say_what_failed(study: Study, store: Store, names: Iterable[str], retry: Collection[str]) -> None:
    """Which trials failed or were cut, and one reason."""
    left = store.missing(_known(study, store, names), retry=retry)
    if left:
        outcome = read_outcome(store.trials_dir, store.cell_of(left[0]))
        say(
            f"trials that are not complete: {len(left)} ({left[0].label} {outcome.status}: {outcome.reason}); "
            "the same command continues them"
        )


def say(text: str) -> None:
    """A line on standard error."""
    Console(file=sys.stderr).print(text, highlight=False, markup=False, soft_wrap=True)
