"""Training every cell of a comparison that is not complete yet."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from subspace_lab._extras import require
from subspace_lab._paths import local_path
from subspace_lab.experiments.executors.base import Executor
from subspace_lab.experiments.executors.choose import Kind, check_execution, executor_of
from subspace_lab.experiments.recipe import content_of
from subspace_lab.experiments.schedule import run_missing
from subspace_lab.experiments.trial import Plain, Trial
from subspace_lab.runs.errors import RunError
from subspace_lab.runs.files import remove_partial
from subspace_lab.runs.lock import lock, unlock
from subspace_lab.studies.optimizers.cells import (
    Cell,
    Methods,
    cells_of,
    check_shared,
    check_used,
    common_config,
    parse_methods,
)
from subspace_lab.studies.optimizers.comparison import CELLS, Comparison
from subspace_lab.studies.optimizers.manifest import join_comparison, other_comparison, stored_base
from subspace_lab.training import TrainConfig
from subspace_lab.training.start import settle_on_machine, torch_state_of_a_run
from subspace_lab.training.tokens import load_tokens
from subspace_lab.training.workers import workers as processes


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
    executor: Kind = "local",
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
    running = executor_of(path / CELLS, executor, workers, slurm)
    data_hash = load_tokens(cells[0].config).hash  # once, before all cells want them; bad data are one line here
    held = lock(path, take_over=False)
    try:
        remove_partial(path)
        join_comparison(path, base, parsed, cells)
        try:
            with running:
                train_cells(path / CELLS, cells, running, data_hash=data_hash, retry=retry)
        except KeyboardInterrupt:
            Comparison.collect(path)
            raise ComparisonInterrupted(path) from None
        found = Comparison.collect(path)
        found.draw()
    finally:
        unlock(held)
    return found


def _base(
    path: Path, config: TrainConfig | None, methods: Mapping[str, Mapping[str, Any]], executor: Kind
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


def train_cells(
    cells_dir: Path, cells: Sequence[Cell], executor: Executor, *, data_hash: str, retry: bool = False
) -> None:
    """Train those of some cells that were not completed, and leave an outcome of each.

    Args:
        cells_dir: The directory of all cells.
        cells: The cells, in this order.
        executor: Where they are trained.
        data_hash: Of the text that they all read.
        retry: Begin cells again that diverged or failed.
    """
    trials = [trial_of(cell, data_hash=data_hash) for cell in cells]
    names = {trial.hash: cell.name for trial, cell in zip(trials, cells, strict=True)}
    run_missing(cells_dir, trials, executor, names=names, retry=retry)


def trial_of(cell: Cell, *, data_hash: str) -> Trial:
    """A cell as a trial of the engine.

    Args:
        cell: The cell.
        data_hash: Of the text that it reads.

    Returns:
        The trial.
    """
    config = cell.config.to_dict()
    content = content_of("train", config, data_hash=data_hash)
    content["cell"] = cell.name  # methods that are the same by other names are cells of their own
    factors: dict[str, Plain] = {"method": cell.method, "lr": cell.lr, "seed": cell.seed}
    return Trial(factors, "train", config, content)
