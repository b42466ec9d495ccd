"""All figures and tables of a profile: train what is missing, measure, draw, and write what came out claim by claim."""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from subspace_lab._extras import require
from subspace_lab._paths import local_path
from subspace_lab.experiments.executors.base import Executor
from subspace_lab.experiments.executors.choose import Kind, executor_of, workers_of
from subspace_lab.experiments.outcome import outcome_path, read_outcome
from subspace_lab.figures.all import save_all
from subspace_lab.runs.errors import RunError
from subspace_lab.runs.files import remove_partial
from subspace_lab.runs.lock import lock, unlock
from subspace_lab.studies.grass_paper import page as pages
from subspace_lab.studies.grass_paper.cells import absorb, captured_cells, missing, seed_cells, tuning_cells
from subspace_lab.studies.grass_paper.estimate import Estimate, estimate, in_words
from subspace_lab.studies.grass_paper.profiles import Profile, profile_named
from subspace_lab.studies.grass_paper.quantities import COLUMNS, QUANTITIES, Quantity, chosen
from subspace_lab.studies.grass_paper.store import CELLS, TABLES, WORK, Store
from subspace_lab.studies.grass_paper.variants import CAPTURED, captured
from subspace_lab.studies.optimizers.cells import Cell
from subspace_lab.studies.optimizers.sweep import train_cells
from subspace_lab.training.tokens import load_tokens

PAGE = "evidence.md"


class EvidenceInterrupted(KeyboardInterrupt):
    """Ctrl-C was pressed; what is there is sound and drawn, and the same command goes on with it.

    Attributes:
        path: ``OUT_DIR``.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(f"interrupted; the same command goes on with {path}")
        self.path = path


def regenerate(
    out_dir: str | Path,
    *,
    profile: str,
    only: Sequence[str] | None = None,
    longer: bool = False,
    executor: Kind = "local",
    workers: int | None = None,
    slurm: Mapping[str, Any] | None = None,
    recompute: bool = False,
    page: str | Path | None = None,
) -> Path:
    """Make the figures and tables of a profile, training whatever the tables do not hold yet.

    Interrupted or killed at any instant, the same call goes on; of ``OUT_DIR`` only ``evidence.json`` and ``tables``
    are needed for that, so that it may go on in a copy of them elsewhere. With all tables there, nothing is computed
    and the figures are drawn again, the same byte for byte.

    Args:
        out_dir: ``OUT_DIR``: tables, figures, the page, and the run directories in ``work``.
        profile: ``smoke``, ``cpu`` or ``paper``.
        only: Names of figures; all by default.
        longer: Four times the steps and two more seeds; needs an ``OUT_DIR`` of its own.
        executor: ``local`` for processes of this machine, ``slurm`` for job arrays; what several processes share is
            begun by torchrun, here one training after the other, on Slurm in its job.
        workers: Trainings at a time; by default one per core, or as many as Slurm gives.
        slurm: Options of Slurm: ``{"partition": "gpu", "time": 60}``.
        recompute: Forget what the chosen figures rest on and train it again.
        page: Where the page with the claims goes; ``OUT_DIR/evidence.md`` by default.

    Returns:
        The page.

    Raises:
        ValueError: If a profile or a figure is not known, or options contradict each other.
        RunError: If ``OUT_DIR`` holds something else or another profile, cannot be written, or Slurm takes no job.
        ModuleNotFoundError: Without the packages that it takes.
        EvidenceInterrupted: After Ctrl-C.
    """
    require("transformers", extra="hf")
    scale, names = settled(profile, longer=longer), chosen(None if only is None else list(only))
    root = local_path(out_dir, error=RunError)
    target = local_path(page, error=RunError) if page else root / PAGE
    running = executor_of(root / WORK / "cells", executor, workers, slurm, processes=scale.processes)
    store = Store(root, scale, COLUMNS)
    held = lock(store.path, take_over=False)
    try:
        remove_partial(store.path)
        _absorb_all(store, names)  # what a killed call has left
        if recompute:
            _forget(store, names)
        _announce(estimate(store, names), workers_of(executor, workers, processes=scale.processes))
        try:
            with running:
                for name in names:
                    if _make(store, name, running):
                        pages.write(store, target)
            pages.write(store, target)
            _tell_left(store, names)
        except KeyboardInterrupt:
            _absorb_all(store, names)
            for name in names:
                _conclude(store, name, again=True)
            pages.write(store, target)
            raise EvidenceInterrupted(store.path) from None
    finally:
        unlock(held)
    return target


def settled(profile: str, *, longer: bool) -> Profile:
    """The profile of a name, or its longer variant.

    Args:
        profile: Its name.
        longer: Whether the longer one is meant.

    Returns:
        The profile.

    Raises:
        ValueError: If it is not known, or has no longer variant.
    """
    found = profile_named(profile)
    if longer and profile == "paper":
        raise ValueError("longer has no use with profile paper, which has the published length; leave it out")
    return found.longer if longer else found


def cells_for(store: Store, quantity: Quantity) -> list[list[Cell]]:
    """The cells of a quantity in the order in which they can be known: tuning, then all seeds and captured runs.

    Args:
        store: The tables.
        quantity: Which.

    Returns:
        Two lists; the second grows when the first is in the tables.
    """
    scale, cells = store.profile, store.read(CELLS)
    variants = quantity.variants(scale)
    if not variants:
        return [[], []]
    tuned = {name: settings for name, settings in variants.items() if _is_tuned(store, name, settings)}
    then = seed_cells(tuned, cells, scale)
    seeds = {method: number for method, number in quantity.captured(scale).items() if method in tuned}
    return [tuning_cells(variants, scale), [*then, *captured_cells(captured(scale), seeds, cells, scale)]]


def _is_tuned(store: Store, name: str, settings: dict[str, object]) -> bool:
    return not missing(store, tuning_cells({name: dict(settings)}, store.profile))


def _make(store: Store, name: str, executor: Executor) -> bool:
    """Train what a quantity lacks, measure and draw; returns whether anything was trained."""
    quantity, trained = QUANTITIES[name], False
    for phase in (0, 1):
        cells = missing(store, cells_for(store, quantity)[phase])
        if cells:
            trained = True
            what = ("learning rates", "seeds")[phase]
            say(f"{name} ({quantity.title}), {what}: {len(cells)} trainings")
            data_hash = load_tokens(cells[0].config).hash
            store.settle_data(data_hash)
            train_cells(store.cells_dir, cells, executor, data_hash=data_hash, retry=True)
            absorb(store, cells)
    _conclude(store, name, again=trained)
    return trained


def _conclude(store: Store, name: str, *, again: bool) -> None:
    """Make the table of a quantity where it has to be made, and draw it."""
    quantity = QUANTITIES[name]
    if again or not store.has(name):
        table = quantity.measure(store)
        if table.empty:
            return
        store.write(name, table)
    table = store.read(name)
    try:
        save_all(quantity.figures, table, store.path)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # values of the right kind that cannot be
        problem = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        raise RunError(
            f"{store.path / TABLES / name}.parquet cannot be drawn ({problem}); remove it, and it is made again"
        ) from error


def _absorb_all(store: Store, names: Sequence[str]) -> None:
    for name in names:
        for phase in (0, 1):
            absorb(store, cells_for(store, QUANTITIES[name])[phase])


def _forget(store: Store, names: Sequence[str]) -> None:
    for name in names:
        quantity = QUANTITIES[name]
        runs = [CAPTURED + method for method in quantity.captured(store.profile)]
        methods = [*quantity.variants(store.profile), *runs]
        for cell in itertools.chain(*cells_for(store, quantity)):
            shutil.rmtree(store.cells_dir / cell.name, ignore_errors=True)
            outcome_path(store.cells_dir, cell.name).unlink(missing_ok=True)
        store.forget(methods)
        store.remove(name)


def _announce(found: Estimate, workers: int | None) -> None:
    if found.cells:
        say(f"{found.there} trainings are there, {found.cells} to come: {in_words(found.seconds, workers)}")


def _tell_left(store: Store, names: Sequence[str]) -> None:
    """Which trainings failed or were cut, and one reason."""
    cells = itertools.chain.from_iterable(phase for name in names for phase in cells_for(store, QUANTITIES[name]))
    left = dict.fromkeys(cell.name for cell in missing(store, [*cells]))
    if left:
        first = next(iter(left))
        outcome = read_outcome(store.cells_dir, first)
        say(
            f"trainings that did not come to their end, and that the figures lack: {len(left)} ({first} "
            f"{outcome.status}: {outcome.reason}); the same command goes on with them"
        )


def say(text: str) -> None:
    """A line on standard error."""
    Console(file=sys.stderr).print(text, highlight=False, markup=False, soft_wrap=True)
