"""What a profile would train: the budget and every training; nothing is begun and nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from subspace_lab._paths import local_path
from subspace_lab.experiments.dry_run import command_of, slurm_lines
from subspace_lab.experiments.executors.choose import Kind
from subspace_lab.runs.errors import RunError
from subspace_lab.studies.finetuning.out_dir import FINETUNING, settled
from subspace_lab.studies.finetuning.profiles import profile_named
from subspace_lab.studies.finetuning.study import checked, needed, study_of
from subspace_lab.studies.finetuning.trials import budget_lines
from subspace_lab.training import TrainConfig
from subspace_lab.training.sharding import check_shares


def plan_lines(
    out_dir: str | Path,
    profile: str,
    *,
    executor: Kind = "local",
    slurm: Mapping[str, Any] | None = None,
    processes: int | None = None,
    sharding: str | None = None,
) -> Iterator[str]:
    """What `fine_tune` would train with the same arguments, line by line; this machine need not have Slurm.

    Yields:
        The lines of the budget; then two lines per training (its settings, its command), without the command where its
        rate is not known yet.
    """
    needed()
    root = local_path(out_dir, error=RunError)
    slurm_options = [*slurm_lines(executor, slurm, processes=processes, sharding=sharding)]
    scale = settled(root, checked(profile_named(profile), executor))
    check_shares(scale.base, processes)
    study = study_of(scale)
    every = study.wanted(None, study.quantities)
    yield from (f"# {line}" for line in budget_lines(every, scale))
    yield from slurm_options
    for name, quantity in study.quantities.items():
        yield f"# {name}: {quantity.title}"
        for wanted in study.wanted(None, [name]):
            factors, config = wanted.trial.factors, TrainConfig.from_dict(wanted.trial.config)
            rate = f"lr {config.lr:g}" if wanted.is_known else "rate not known yet"
            kept = ", gradients captured" if factors["source"] else ""
            yield (
                f"# {factors['method']} on {factors['task']}, {rate}, seed {config.seed}, {config.steps} steps of at "
                f"most {config.tokens // (config.steps or 1):,} tokens{kept}"
            )
            if wanted.is_known:
                yield command_of(root / FINETUNING.trials, wanted.trial, processes, sharding)
