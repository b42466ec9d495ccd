"""What a profile would train: every command, its memory and its tokens; nothing is begun and nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from subspace_lab._paths import local_path
from subspace_lab.experiments.dry_run import command_of, slurm_lines
from subspace_lab.experiments.executors.choose import Kind
from subspace_lab.experiments.grid import Wanted
from subspace_lab.runs.errors import RunError
from subspace_lab.studies.grass_paper.out_dir import PAPER
from subspace_lab.studies.grass_paper.profiles import checked_processes, profile_named
from subspace_lab.studies.grass_paper.quantities import QUANTITIES, chosen
from subspace_lab.studies.grass_paper.study import study_of
from subspace_lab.training import TrainConfig
from subspace_lab.training.memory import memory_of

_TERA, _GIGA = 1e12, 1e9


def plan_lines(
    out_dir: str | Path,
    profile: str,
    *,
    only: list[str] | None = None,
    longer: bool = False,
    executor: Kind = "local",
    slurm: Mapping[str, Any] | None = None,
    processes: int | None = None,
    sharding: str | None = None,
) -> Iterator[str]:
    """What `regenerate` would train with the same arguments, line by line; this machine need not have Slurm.

    Yields:
        Three lines per training (its settings, its memory and tokens, its command), without the command where its
        setting is not known yet, and the sum at the end.
    """
    scale, names = profile_named(profile, longer=longer), chosen(only)
    several = checked_processes(scale, processes)
    yield from slurm_lines(executor, slurm, processes=several, sharding=sharding)
    trials_dir = local_path(out_dir, error=RunError) / PAPER.trials
    study, listed = study_of(scale), set[str]()
    for name in names:
        yield f"# {name}: {QUANTITIES[name].title}"
        for wanted in study.wanted(None, [name]):
            if wanted.trial.label not in listed:
                listed.add(wanted.trial.label)
                yield from _lines(wanted, trials_dir, several, sharding)
    every = study.wanted(None, names)
    tokens = sum(TrainConfig.from_dict(one.trial.config).tokens for one in every)
    waiting = sum(not one.is_known for one in every)
    yield (
        f"# at most {len(every)} trainings, {tokens / _TERA:.3g} T tokens, with {waiting} whose setting depends on the "
        "results of others and is not known yet"
    )


def _lines(wanted: Wanted, trials_dir: Path, processes: int, sharding: str | None) -> Iterator[str]:
    trial, config = wanted.trial, TrainConfig.from_dict(wanted.trial.config)
    kept = ", gradients captured" if trial.factors["captured"] else ""
    report = memory_of(config)
    rate = f"lr {config.lr:g}" if wanted.is_known else "setting not known yet"
    yield f"# {trial.factors['method']}, {rate}, seed {config.seed}, {config.steps} steps{kept}"
    sizes = {"weights": report.weights, "gradients": report.gradients, "optimizer": report.optimizer}
    parts = ", ".join(f"{name} {size / _GIGA:.2f}" for name, size in sizes.items())
    yield f"#   {config.tokens:,} tokens; per process {report.total / _GIGA:.2f} GB beside activations: {parts}"
    if not wanted.is_known:
        return
    yield command_of(trials_dir, trial, processes, sharding)
