"""Fine-tune a pretrained model by every method, look at its gradients, and write what came out claim by claim."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subspace_lab._extras import require
from subspace_lab._paths import local_path
from subspace_lab.experiments.executors.choose import Kind, executor_of, workers_of
from subspace_lab.experiments.hashing import content_hash
from subspace_lab.experiments.store import Store
from subspace_lab.experiments.study import Study, check_draw_only, conduct, draw, say
from subspace_lab.runs.errors import RunError
from subspace_lab.studies.finetuning import page as pages
from subspace_lab.studies.finetuning.out_dir import FINETUNING, open_store, settled
from subspace_lab.studies.finetuning.profiles import Profile, profile_named
from subspace_lab.studies.finetuning.quantities import gradients, scores
from subspace_lab.studies.finetuning.trials import budget_lines, config_of, gradient_phases, score_phases, sources_of
from subspace_lab.training.config import Sharding
from subspace_lab.training.sharding import check_shares
from subspace_lab.training.tasks.table import data_hash_of

PAGE = "finetuning.md"


QUANTITIES = {"scores": scores.QUANTITY, "gradients": gradients.QUANTITY}  # by the names of their tables


def study_of(profile: Profile, data_hash: str = "") -> Study:
    """The study at the scale of a profile whose precision is measured, without a page; the hash is of all data."""
    phases = {"scores": score_phases(profile, data_hash), "gradients": gradient_phases(profile, data_hash)}
    quantities = {name: dataclasses.replace(one, phases=phases[name]) for name, one in QUANTITIES.items()}
    study = Study(quantities, gradients.absorb)
    steps = [int(one.trial.config["steps"]) for one in study.wanted(None, quantities)]
    return dataclasses.replace(study, seconds=profile.around_s + profile.seconds_per_step * sum(steps) / len(steps))


def data_hash(profile: Profile) -> str:
    """Of the rows of all tasks and the texts of all captured runs."""
    configs = [*(config_of(profile, task) for task in profile.tasks), *sources_of(profile).values()]
    return content_hash([data_hash_of(config) for config in configs])


def fine_tune(
    out_dir: str | Path,
    *,
    profile: str,
    executor: Kind = "local",
    workers: int | None = None,
    slurm: Mapping[str, Any] | None = None,
    processes: int | None = None,
    sharding: Sharding | None = None,
    recompute: bool = False,
    page: str | Path | None = None,
    pictures: str | Path | None = None,
    draw_only: bool = False,
) -> Path:
    """Train whatever the tables of a profile do not hold yet, draw, and write the page.

    What it takes is said before it begins: trainings and steps of each phase, and hours. After an interruption at any
    instant, the same call continues; it needs only ``finetuning.json`` and the parquet files of ``OUT_DIR``. With all
    tables complete, nothing is computed and the figures are drawn again, the same byte for byte.

    Args:
        out_dir: ``OUT_DIR``: tables, figures, the page, and the run directories in ``work``.
        profile: ``smoke`` (a tiny random model), ``cpu`` or ``gpu`` (both SmolLM2-135M-Instruct).
        executor: ``local`` for processes of this machine, ``slurm`` for job arrays.
        workers: Trainings at a time; by default one per GPU, else per core, or as many as Slurm gives.
        slurm: Options of Slurm: ``{"partition": "gpu", "time": 60}``.
        processes: Of one training, 1 by default; several are begun by torchrun, and batches must be multiples of them.
        sharding: How they share it: ``ddp`` (the default) keeps the whole model in each of them, ``fsdp`` shards it.
        recompute: Forget all trainings and repeat them.
        page: Where the page with the claims goes; ``OUT_DIR/finetuning.md`` by default.
        pictures: Where the figures go; ``OUT_DIR`` by default.
        draw_only: Draw what the tables hold, and train nothing; it takes no model.

    Returns:
        The page.

    Raises:
        ValueError: If the profile is not known, the model was not fetched, or options contradict each other.
        RunError: If ``OUT_DIR`` holds something else or another profile, cannot be written, or Slurm refuses the jobs.
        ModuleNotFoundError: Without the packages that it needs.
        StudyInterrupted: After Ctrl-C.
    """
    needed()
    root = local_path(out_dir, error=RunError)
    if draw_only:
        elsewhere = None if executor == "local" else executor
        check_draw_only(
            root, FINETUNING, executor=elsewhere, workers=workers, slurm=slurm, processes=processes, sharding=sharding,
            recompute=recompute,
        )  # fmt: skip
    scale = settled(root, checked(profile_named(profile), executor))
    target = local_path(page, error=RunError) if page else root / PAGE
    drawings = local_path(pictures, error=RunError) if pictures else root
    running = executor_of(root / FINETUNING.trials, executor, workers, slurm, processes=processes, sharding=sharding)
    check_shares(scale.base, processes)
    find_data = functools.partial(data_hash, scale)
    # What cannot be read leaves no directory.
    found = None if draw_only or Store.existing(root, FINETUNING) else find_data()
    store = open_store(root, scale)
    study = Study(QUANTITIES, finish=lambda _: pages.write(store, QUANTITIES, target, drawings), pictures=drawings)
    if draw_only:
        draw(study, store)
        return target
    recorded = store.data_hash(find_data if found is None else lambda: found)
    study = dataclasses.replace(study_of(scale, recorded), data_hash=find_data, finish=study.finish, pictures=drawings)
    if store.results.empty or recompute:
        for line in budget_lines(study.wanted(None, study.quantities), scale):
            say(line)
    at_a_time = workers_of(executor, workers, processes=processes)
    conduct(study, store, running, workers=at_a_time, retry=("failed",), recompute=recompute)
    return target


def needed() -> None:
    """ModuleNotFoundError without a package that the study needs."""
    require("transformers", extra="hf")
    require("peft", extra="peft")
    require("sklearn", extra="finetune")


def checked(profile: Profile, executor: Kind) -> Profile:
    """The profile; ValueError if its precision would be measured here and its trainings run elsewhere."""
    if profile.config.precision == "auto" and executor == "slurm":
        raise ValueError(
            f"profile {profile.name} measures the faster precision here, and Slurm would train elsewhere; take profile "
            "gpu"
        )
    return profile
