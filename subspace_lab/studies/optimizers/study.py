"""Optimizers side by side: every method at every learning rate with every seed, on the same model and data."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from subspace_lab._checks import check_choice, whole_number
from subspace_lab._extras import require
from subspace_lab._paths import local_path
from subspace_lab._text import count
from subspace_lab.experiments.executors.choose import Kind, check_execution, executor_of, workers_of
from subspace_lab.experiments.grid import Grid, Phase
from subspace_lab.experiments.protocol import RATES, SEEDS, tuned_phases
from subspace_lab.experiments.store import Store, other_study
from subspace_lab.experiments.study import Quantity, Study, conduct, outlook, say
from subspace_lab.experiments.variants import (
    Methods,
    Trainings,
    check_shared,
    check_used,
    common_config,
    parse_methods,
    rates,
)
from subspace_lab.runs.errors import RunError
from subspace_lab.studies.optimizers.comparison import COMPARISON, Comparison, identity_of
from subspace_lab.training import TrainConfig
from subspace_lab.training.sharding import check_shares
from subspace_lab.training.start import settle_on_machine, torch_state_of_a_run
from subspace_lab.training.tasks.table import data_hash_of
from subspace_lab.training.workers import workers as joined

Protocol = Literal["grid", "tuned"]


def compare(
    out_dir: str | Path,
    methods: Methods,
    *,
    lrs: Sequence[float] | None = None,
    seeds: int | None = None,
    protocol: Protocol = "grid",
    config: TrainConfig | None = None,
    executor: Kind = "local",
    workers: int | None = None,
    slurm: Mapping[str, Any] | None = None,
    processes: int | None = None,
    retry: bool = False,
) -> Comparison:
    """Train every method at every learning rate with every seed, and compare them.

    Every training is a trial in a run directory and a process of its own; all trials of a seed begin with the same
    weights, see the same batches and are evaluated on the same text. Complete trials are skipped, those that were cut
    or killed are resumed, and those that diverged or failed are recorded with the reason; only `retry` repeats them.
    The same call continues a comparison; one with more methods, learning rates or seeds adds trials.

    Args:
        out_dir: Directory of the comparison, new or existing.
        methods: Names of optimizers, with settings where there are any (``"grasswalk:rank=16"``), or a mapping from
            names of your own to settings; see `subspace_lab.experiments.variants.parse_methods`.
        lrs: Peak learning rates, the same for all methods; with the tuned protocol the ladder that both rates are
            searched on, by default from 1e-4 to 3e-2.
        seeds: How many, from 0 on; 3 by default, 5 with the tuned protocol.
        protocol: ``grid``: every learning rate with every seed. ``tuned``: for each method a coordinate search over the
            rate of the matrices, the rate of the rest, beta2 and the warm-up, at most ten trainings on a seed of its
            own, then the evaluation seeds at the best setting.
        config: What all trials have in common; ``rank``, ``update_interval`` and ``scale`` go to the methods that have
            them. None for the defaults, or for the configuration of the comparison that is continued.
        executor: ``local`` for processes of this machine, ``slurm`` for a job array.
        workers: Trials at a time; by default one per core, or as many as Slurm gives.
        slurm: Options of Slurm: ``{"partition": "gpu", "time": 60}``.
        processes: Of one training, 1 by default; several are begun by torchrun, and ``config.sharding`` says how they
            share it. What is complete stays, however it was trained.
        retry: Repeat trials that diverged or failed.

    Returns:
        The comparison, its tables, figures and report written.

    Raises:
        ValueError: If an argument is wrong.
        TypeError: If `config` is not a TrainConfig.
        RunError: If the directory holds something else or another comparison, or cannot be written.
        ModuleNotFoundError: Without the packages that it needs.
        StudyInterrupted: After Ctrl-C; trials that were running have left a checkpoint.
    """
    require("transformers", extra="hf")
    if config is not None and not isinstance(config, TrainConfig):
        raise TypeError(f"config must be a TrainConfig, got {type(config).__name__}; write TrainConfig(steps=100)")
    path = local_path(out_dir, error=RunError)
    parsed = parse_methods(methods)
    check_shared(parsed)
    sharding = None if config is None else config.sharding
    check_execution(executor, workers, slurm, processes=processes, sharding=sharding)
    workers = workers_of(executor, workers, processes=processes)
    base = _base(path, None if config is None else dataclasses.replace(config, sharding=None), parsed, executor)
    check_shares(base, processes)
    check_choice("protocol", protocol, get_args(Protocol))
    if lrs is None and protocol == "grid":
        raise ValueError("lrs is needed for a grid; give lrs=[1e-3, 3e-3], or protocol='tuned'")
    phases = functools.partial(_phases, protocol, parsed, base, lrs, seeds)
    Study({"results": Quantity("methods", phases(""))}).wanted(None, ["results"])  # refuses before anything is written
    running = executor_of(path / COMPARISON.trials, executor, workers, slurm, processes=processes, sharding=sharding)
    data_hash = data_hash_of(base)  # once, before all trials want them; bad data are one line here
    settings: dict[str, Any] = {"config": base.to_dict(), "methods": identity_of(parsed)}
    store = Store.begin(path, COMPARISON, settings | ({"protocol": protocol} if protocol != "grid" else {}))
    store.data_hash(lambda: data_hash)
    store.check_data(data_hash)
    study = Study({"results": Quantity("methods", phases(data_hash))}, finish=_draw)
    if protocol == "tuned" and (left := outlook(study, store, ["results"]).left):
        say(f"tuned protocol: at most {count(left, 'training')} of {base.steps} steps to come")
    conduct(study, store, running, workers=workers, retry=("diverged", "failed") if retry else ())
    return Comparison(store)


def _draw(store: Store) -> None:
    Comparison(store).draw()


def _phases(
    protocol: Protocol,
    methods: Mapping[str, Mapping[str, Any]],
    base: TrainConfig,
    lrs: Sequence[float] | None,
    seeds: int | None,
    data_hash: str,
) -> tuple[Phase, ...]:
    make, is_tuned = Trainings(base, methods, data_hash), protocol == "tuned"
    number = whole_number("seeds", (SEEDS if is_tuned else 3) if seeds is None else seeds)
    settings = rates(RATES if lrs is None else lrs)
    if not is_tuned:
        return (Grid([*methods], settings, range(number), make),)
    if len(settings) < 2:
        raise ValueError("lrs has one learning rate only, on which nothing can be searched; give at least two")
    return tuned_phases(methods, make, seeds=number, lrs=sorted(one["lr"] for one in settings))


def _base(
    path: Path, config: TrainConfig | None, methods: Mapping[str, Mapping[str, Any]], executor: Kind
) -> TrainConfig:
    """What all trials have in common: as it was where the comparison is continued."""
    if (store := Store.existing(path, COMPARISON)) is not None:
        return _continued(store, config)
    base = common_config(config or TrainConfig())
    check_used(base, methods.values())
    if base.precision == "auto" and executor == "slurm":
        raise ValueError("precision auto is measured here, the trials run elsewhere; give float32 or bfloat16")
    with joined() as team, torch_state_of_a_run(base, team):
        return dataclasses.replace(settle_on_machine(base, team), threads=base.threads)


def _continued(store: Store, config: TrainConfig | None) -> TrainConfig:
    try:
        before = TrainConfig.from_dict(store.settings["config"])
    except (KeyError, TypeError, ValueError) as error:
        file = store.path / COMPARISON.manifest
        raise RunError(f"{file} is of another release ({error}); choose another directory") from error
    if config is None:
        return before
    common_config(config)  # an error in itself is not a difference
    try:
        return common_config(config, before)
    except ValueError as error:
        raise other_study(store.path, COMPARISON, str(error)) from error
