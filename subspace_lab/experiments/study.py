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
from subspace_lab.experiments.grid import Lookup, Phase, Wanted, unique
from subspace_lab.experiments.outcome import read_outcome
from subspace_lab.experiments.schedule import has_weights, is_complete, run_missing
from subspace_lab.experiments.store import TABLES, Kind, Store
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
        rows_of: Lookup = (lambda _: []) if store is None else store.rows_of
        phases = (phase for name in names for phase in self.quantities[name].phases)
        return unique(one for phase in phases for one in phase.wanted(rows_of))

    def known(self, store: Store, names: Iterable[str] | None = None) -> list[Trial]:
        """The trials of some quantities (all by default) whose setting is known."""
        chosen = self.quantities if names is None else names
        return [one.trial for one in self.wanted(store, chosen) if one.is_known]


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
        unit, size = ("seconds", 1) if left < 90 else ("minutes", 60) if left < 6000 else ("hours", 3600)
        return f"about {max(1, round(left / size))} {unit}{',' if workers else ''} {at_a_time}"


def outlook(study: Study, store: Store, names: Iterable[str], retry: Collection[str] = ()) -> Outlook:
    """Count the trials that quantities need and the tables lack, each expected to last as long as the median so far."""
    wanted = study.wanted(store, names)
    known = [one.trial for one in wanted if one.is_known]
    missing, waiting = len(store.missing(known, retry=retry)), len(wanted) - len(known)
    median = store.results["wall_s"].median()
    one = study.seconds if pd.isna(median) else float(median)
    left = missing + waiting
    return Outlook(len({trial.hash for trial in known}) - missing, left, None if one is None else left * one)


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
            store.forget(study.known(store, chosen))
            for name in chosen:
                store.remove(name)
        store.enroll(study.known(store, chosen))
        _absorb(study, store)
        if (left := outlook(study, store, chosen, retry)).left and left.seconds is not None:
            say(f"{count(left.there, 'trial')} complete, {left.left} to come: {left.in_words(workers)}")
        try:
            with executor:
                for name in chosen:
                    has_run = _run(study, store, name, executor, retry=retry)
                    if _conclude(study, store, name, again=_is_stale(study, store, name)) or has_run:
                        study.finish(store)
            for name in study.quantities:
                if name not in chosen and store.has(name) and _is_stale(study, store, name):
                    _conclude(study, store, name, again=True)
            study.finish(store)
        except KeyboardInterrupt:
            _absorb(study, store)
            for name in chosen:
                _conclude(study, store, name, again=True)
            study.finish(store)
            raise StudyInterrupted(store.path) from None
        if lost := store.missing(study.known(store, chosen), retry=retry):
            outcome = read_outcome(store.trials_dir, store.cell_of(lost[0]))
            say(
                f"trials that are not complete: {len(lost)} ({lost[0].label} {outcome.status}: {outcome.reason}); "
                "the same command continues them"
            )


def check_draw_only(path: Path, kind: Kind, **given: object) -> None:
    """Refuse to draw what is not there, and options of training beside.

    Args:
        path: Directory of the study.
        kind: Its layout.
        given: Options by name, as they were given; those that are None, False or empty were not.

    Raises:
        ValueError: If an option was given that trains.
        RunError: If the directory holds no study of the kind.
    """
    for name, value in given.items():
        if value:
            raise ValueError(f"{name} has no effect on draw_only, which trains nothing; leave it out")
    Store.open(path, kind)


def draw(study: Study, store: Store, names: Sequence[str] | None = None) -> None:
    """Draw the tables that are there, and finish; no trial is run and no table is made.

    Args:
        study: The study.
        store: Its tables.
        names: Quantities; all by default.

    Raises:
        RunError: If a table cannot be drawn.
    """
    with store.writing():
        for name in study.quantities if names is None else names:
            if store.has(name):
                _conclude(study, store, name, again=False)
        study.finish(store)


def _absorb(study: Study, store: Store, trials: Iterable[Trial] | None = None) -> None:
    store.refresh(lambda rows: study.absorb(store, rows), trials)


def _run(study: Study, store: Store, name: str, executor: Executor, *, retry: Collection[str]) -> bool:
    """Run the trials that a quantity lacks, phase by phase; whether there were any."""
    tried: set[str] = set()
    for phase in study.quantities[name].phases:
        others = study.known(store)  # what the phase before made known, in other quantities too
        while trials := [one for one in _missing(study, phase, store, retry) if one.hash not in tried]:
            every = [*others, *study.known(store, [name])]
            if study.data_hash is not None:
                store.check_data(study.data_hash())
            if len(study.quantities) > 1:
                say(f"{name} ({study.quantities[name].title}): {count(len(trials), 'trial')}")
            run_missing(
                store.trials_dir, trials, executor, names={one.hash: store.cell_of(one) for one in every},
                parents={parent for one in every for parent in one.parents}, plugins=study.plugins,
                metric=store.kind.metric.name,
            )  # fmt: skip
            tried |= {one.hash for one in trials}
            _absorb(study, store, trials)
    return bool(tried)


def _missing(study: Study, phase: Phase, store: Store, retry: Collection[str]) -> list[Trial]:
    """The trials of a phase that have to run, those of which the parents have other weights now, and their parents."""
    known = [one.trial for one in phase.wanted(store.rows_of) if one.is_known]
    store.enroll(known)
    _absorb(study, store, known)  # what is there although the result table was lost
    waiting = store.missing(known, retry=retry)
    if not any(one.parents for one in known):
        return waiting
    every = {one.hash: one for one in study.known(store)}
    names = {content: store.cell_of(one) for content, one in every.items()}
    lacking = {one.hash for one in store.missing(every.values(), retry=retry)}

    def is_stale(trial: Trial) -> bool:
        """Whether it is complete and began from other weights than its parents have now."""
        outcome = read_outcome(store.trials_dir, names[trial.hash])
        return outcome.status == "complete" and not is_complete(store.trials_dir, trial, names)

    def has_to_run(parent: Trial) -> bool:
        if parent.hash in lacking:
            return True
        is_done = [row["status"] for row in store.rows_of([parent])] == ["complete"]
        return is_done and not has_weights(store.trials_dir, names[parent.hash])

    waiting += [one for one in known if one not in waiting and is_stale(one)]
    found: dict[str, Trial] = {}
    while waiting:
        trial = waiting.pop(0)
        if trial.hash not in found:
            found[trial.hash] = trial
            parents = [every[parent] for parent in trial.parents if parent in every]
            waiting += filter(has_to_run, parents)
    store.enroll([*found.values()])
    return [*found.values()]


def _is_stale(study: Study, store: Store, name: str) -> bool:
    """Whether trials of a quantity have changed, be it that another quantity, which shares them, ran them."""
    return any(store.cell_of(trial) in store.changed for trial in study.known(store, [name]))


def _conclude(study: Study, store: Store, name: str, *, again: bool) -> bool:
    """Make the table of a quantity where it has to be made, and draw it; whether it was made."""
    quantity = study.quantities[name]
    if quantity.measure is None:
        return False
    if made := again or not store.has(name):
        table = quantity.measure(store)
        if table.empty:
            return False
        store.write(name, table)
    try:
        save_all(quantity.pictures, store.read(name, quantity.columns), study.pictures or store.path)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # of values that cannot be right
        problem = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        raise RunError(
            f"{store.path / TABLES / name}.parquet cannot be drawn ({problem}); remove it, and it is made again"
        ) from error
    return made


def say(text: str) -> None:
    """A line on standard error."""
    Console(file=sys.stderr).print(text, highlight=False, markup=False, soft_wrap=True)
