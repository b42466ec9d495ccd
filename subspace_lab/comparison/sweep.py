"""Training every cell of a comparison that is not complete yet."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, get_args

from subspace_lab._extras import require
from subspace_lab._paths import local_path
from subspace_lab.comparison.cells import (
    Cell,
    Methods,
    cells_of,
    check_shared,
    check_used,
    common_config,
    parse_methods,
)
from subspace_lab.comparison.comparison import CELLS, Comparison
from subspace_lab.comparison.local import LocalExecutor
from subspace_lab.comparison.manifest import join_comparison, other_comparison, stored_base
from subspace_lab.comparison.progress import SweepProgress
from subspace_lab.comparison.record import GOES_ON, Record, read_record, record_path, write_record
from subspace_lab.comparison.slurm import SlurmExecutor
from subspace_lab.runs.errors import RunError
from subspace_lab.runs.files import remove_partial
from subspace_lab.runs.lock import lock, unlock
from subspace_lab.training import TrainConfig
from subspace_lab.training.names import unknown
from subspace_lab.training.start import settle_on_machine, torch_state_of_a_run
from subspace_lab.training.tokens import load_tokens
from subspace_lab.training.workers import workers as processes

Executor = Literal["local", "slurm"]


class AnyExecutor(Protocol):
    """What trains cells: processes of this machine, a job array, or either of them kept open by the caller."""

    def __enter__(self) -> Any: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    def run(
        self,
        todo: Sequence[Cell],
        begun: Callable[[Cell], None],
        ended: Callable[[Cell, str], None],
        look: Callable[[], None],
    ) -> None:
        """Train cells until all have ended; see `LocalExecutor.run`."""


class ComparisonInterrupted(KeyboardInterrupt):
    """Ctrl-C was pressed; the comparison is sound, and the same command goes on with it.

    Attributes:
        path: Its directory.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(f"interrupted; the same command goes on with {path}")
        self.path = path


def compare(
    out_dir: str | Path,
    methods: Methods,
    *,
    lrs: Sequence[float],
    seeds: int = 3,
    config: TrainConfig | None = None,
    executor: Executor = "local",
    workers: int | None = None,
    slurm: Mapping[str, Any] | None = None,
    retry: bool = False,
) -> Comparison:
    """Train every method at every learning rate with every seed, and compare them.

    Every cell is a run directory of its own and a process of its own; all cells of a seed begin with the same weights,
    see the same batches and are evaluated on the same text. Cells that are complete are skipped, those that were cut or
    killed are resumed, and those that diverged or failed are recorded with the reason and begun again on demand only.
    The same call goes on with a comparison; one with more methods, learning rates or seeds adds cells to it.

    Args:
        out_dir: Where the comparison is, or is to be.
        methods: Names of optimizers, with settings where there are any (``"grasswalk:rank=16"``), or a mapping from
            names of your own to settings; see `parse_methods`.
        lrs: Peak learning rates, the same for all methods.
        seeds: How many, from 0 on.
        config: What all cells have in common; ``rank``, ``update_interval`` and ``scale`` go to the methods that have
            them. None for the defaults, or what the comparison began with.
        executor: ``local`` for processes of this machine, ``slurm`` for a job array.
        workers: How many cells at a time; by default one per core, or as many as Slurm gives.
        slurm: Options of Slurm: ``{"partition": "gpu", "time": 60}``.
        retry: Begin cells again that diverged or failed.

    Returns:
        The comparison, its tables, figures and report written.

    Raises:
        ValueError: If an argument is wrong.
        TypeError: If `config` is none.
        RunError: If the directory holds something else or another comparison, or cannot be written.
        ModuleNotFoundError: Without the packages that it takes.
        ComparisonInterrupted: After Ctrl-C; cells that were running have left a checkpoint.
    """
    require("transformers", extra="hf")
    if config is not None and not isinstance(config, TrainConfig):
        raise TypeError(f"config must be a TrainConfig, got {type(config).__name__}; write TrainConfig(steps=100)")
    path = local_path(out_dir, error=RunError)
    parsed = parse_methods(methods)
    check_shared(parsed)
    check_execution(executor, workers, slurm)
    base = _base(path, config, parsed, executor)
    cells = cells_of(parsed, lrs, seeds, base)
    running = _executor(path / CELLS, executor, workers, slurm)
    load_tokens(cells[0].config)  # once, before all cells want them; bad data are one line here
    held = lock(path, take_over=False)
    try:
        remove_partial(path)
        join_comparison(path, base, parsed, cells)
        try:
            train_cells(path / CELLS, cells, running, retry=retry)
        except KeyboardInterrupt:
            Comparison.collect(path)
            raise ComparisonInterrupted(path) from None
        found = Comparison.collect(path)
        found.draw()
    finally:
        unlock(held)
    return found


def _base(
    path: Path, config: TrainConfig | None, methods: Mapping[str, Mapping[str, Any]], executor: Executor
) -> TrainConfig:
    before = stored_base(path)
    if before is not None and config is None:
        return before
    config = config or TrainConfig()
    if before is not None:
        common_config(config)  # what is wrong in itself is no difference
        try:
            return common_config(config, before)
        except ValueError as error:
            raise other_comparison(path, str(error)) from error
    base = common_config(config)
    check_used(base, methods.values())
    if base.precision == "auto" and executor == "slurm":
        raise ValueError("precision auto is measured here, the cells run elsewhere; give float32 or bfloat16")
    with processes() as team, torch_state_of_a_run(base, team):
        return dataclasses.replace(settle_on_machine(base, team), threads=base.threads)


def check_execution(executor: str, workers: int | None, slurm: Mapping[str, Any] | None) -> None:
    """Refuse what makes no sense of how cells are to be trained.

    Args:
        executor: Its name.
        workers: Cells at a time.
        slurm: Options of Slurm.

    Raises:
        ValueError: If it is not known, or the others do not go with it.
    """
    if executor not in get_args(Executor):
        raise ValueError(unknown("executor", executor, get_args(Executor)))
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise ValueError(f"workers must be a whole number of at least 1, got {workers!r}")
    if slurm and executor != "slurm":
        raise ValueError("options of Slurm have no effect on executor='local'; leave them out, or say executor='slurm'")


def _executor(cells_dir: Path, kind: Executor, workers: int | None, slurm: Mapping[str, Any] | None) -> AnyExecutor:
    if kind == "slurm":
        return SlurmExecutor(cells_dir, workers, slurm)
    return LocalExecutor(cells_dir, workers or os.cpu_count() or 1)


def train_cells(cells_dir: Path, cells: Sequence[Cell], executor: AnyExecutor, *, retry: bool = False) -> None:
    """Train those of some cells that have not come to their end, and leave a record of each.

    Args:
        cells_dir: The directory of all cells.
        cells: The cells, in this order.
        executor: Where they are trained.
        retry: Begin cells again that diverged or failed.
    """
    if todo := _todo(cells_dir, cells, retry=retry):
        _train(cells_dir, executor, todo, total=len(cells))


def _todo(cells_dir: Path, cells: Sequence[Cell], *, retry: bool) -> list[Cell]:
    """The cells that have to run; those that are begun again are emptied, and none may be running elsewhere."""
    todo = []
    for cell in cells:
        path, run_dir = record_path(cells_dir, cell.name), cells_dir / cell.name
        status = read_record(path).status
        if status == "complete" or (status not in GOES_ON and not retry):
            continue
        if run_dir.exists():
            unlock(lock(run_dir, take_over=False))
        if status not in GOES_ON:
            shutil.rmtree(run_dir, ignore_errors=True)
            path.unlink()
        todo.append(cell)
    return todo


def _train(cells_dir: Path, executor: AnyExecutor, todo: Sequence[Cell], *, total: int) -> None:
    attempts = {cell.name: read_record(record_path(cells_dir, cell.name)).attempts + 1 for cell in todo}

    def ended(cell: Cell, reason: str) -> None:
        record = read_record(record_path(cells_dir, cell.name))
        if record.attempts != attempts[cell.name]:  # its process did not come to write one
            record = _died(record, reason, attempts[cell.name])
            write_record(record_path(cells_dir, cell.name), record)
        progress.ended(cell, record)

    with SweepProgress(cells_dir, total=total, done=total - len(todo)) as progress, executor:
        executor.run(todo, progress.begun, ended, progress.look)


def _died(before: Record, reason: str, attempt: int) -> Record:
    status: Literal["killed", "failed"] = "killed" if reason.startswith(("killed", "job")) else "failed"
    reason = reason or "ended without a record"
    return dataclasses.replace(before, status=status, reason=reason, attempts=attempt)
