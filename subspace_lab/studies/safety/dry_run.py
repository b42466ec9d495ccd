"""What a study would run: nothing is begun and nothing is written."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from subspace_lab._text import count
from subspace_lab.experiments.dry_run import slurm_lines
from subspace_lab.experiments.executors.choose import Kind
from subspace_lab.experiments.trial import Trial
from subspace_lab.studies.safety.config import StudyConfig
from subspace_lab.studies.safety.stages import chain
from subspace_lab.studies.safety.study import missing_jobs, prepared, shared_jobs, shared_line

_WAVES = {"BASE": "base", "ALIGN": "alignment", "TUNE": "tuning", "REPAIR": "repair", "EVALUATE": "evaluation"}


def plan_lines(
    out_dir: str | Path,
    config: StudyConfig,
    *,
    executor: Kind = "local",
    slurm: Mapping[str, Any] | None = None,
    processes: int | None = None,
    sharding: str | None = None,
) -> Iterator[str]:
    """Jobs per wave, what is not supported, and how many forward-backward passes that is.

    Args:
        out_dir: ``OUT_DIR``, perhaps not there yet.
        config: The study.
        executor: As `run` has it.
        slurm: Likewise.
        processes: Likewise.
        sharding: Likewise.

    Yields:
        Lines for people.
    """
    options = [*slurm_lines(executor, slurm, processes=processes, sharding=sharding)]
    root, config, jobs = prepared(out_dir, config)
    left, shared = missing_jobs(root, jobs.trials), shared_jobs(jobs.trials, processes)
    yield from options
    for recipe, name in _WAVES.items():
        of_wave = [one for one in jobs.trials if one.recipe.endswith(f":{recipe}")]
        to_come = sum(one.recipe.endswith(f":{recipe}") for one in left)
        yield f"{name}: {count(len(of_wave), 'job')}, {to_come} to come"
    if processes is not None and processes > 1:
        yield shared_line(shared, left, processes)
    reasons = Counter(
        (cell.factors["defense"], cell.factors["regime"], cell.reason) for cell in jobs.cells if cell.reason
    )
    for (defense, regime, reason), cells in reasons.items():
        where = f" under {regime}" if regime else ""
        yield f"unsupported: {defense}{where} ({count(cells, 'cell')}): {reason}"
    for judge, reason in jobs.refused.items():
        yield f"unsupported: judge {judge}: {reason}"
    total, missing = (round(sum(map(passes, trials))) for trials in (jobs.trials, left))
    yield f"about {total:,} forward-backward passes, {missing:,} of them to come"


def passes(job: Trial) -> float:
    """Forward-backward passes of a training, as its defenses say what a step costs; 0 of other jobs."""
    about = job.config
    if "train" not in about or "chain" not in about or not about.get("trains", True) or job.recipe.endswith(":REPAIR"):
        trains = job.recipe.endswith(":BASE") and about["trains"]
        return float(about["train"]["steps"]) if trains else 0.0
    further = sum(_leading(one.cost) - 1 for one in chain(about["chain"]).of("align", "train").defenses)
    steps = about["train"]["steps"] * about["train"]["accumulation"]
    return float(steps * (1 + max(0.0, further)))


def _leading(cost: str) -> float:
    """The first number of a cost that is written for people: of ``2 + 1 forward`` 2."""
    found = re.search(r"\d+(\.\d+)?", cost)
    return float(found[0]) if found else 1.0
