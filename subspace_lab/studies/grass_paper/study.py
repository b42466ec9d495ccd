"""All figures and tables of a profile: train what is missing, measure, draw, and write what came out claim by claim."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from subspace_lab._extras import require
from subspace_lab._paths import local_path
from subspace_lab.experiments.executors.choose import Kind, executor_of, workers_of
from subspace_lab.experiments.hashing import content_hash
from subspace_lab.experiments.study import Study, check_draw_only, conduct, draw
from subspace_lab.runs.errors import RunError
from subspace_lab.studies.grass_paper import page as pages
from subspace_lab.studies.grass_paper.captured_tables import absorb
from subspace_lab.studies.grass_paper.out_dir import PAPER, open_store
from subspace_lab.studies.grass_paper.profiles import Profile, checked_processes, profile_named
from subspace_lab.studies.grass_paper.quantities import QUANTITIES, chosen
from subspace_lab.studies.grass_paper.trials import phases, trainings
from subspace_lab.training.config import Sharding
from subspace_lab.training.tokens import load_tokens

PAGE = "evidence.md"
_OF_TOKENS = ("preset", "vocab_size")  # settings of the larger size that its tokens depend on


def study_of(profile: Profile, data_hash: str = "") -> Study:
    """The study at the scale of a profile, without a page; the hash is of the tokens, empty where nothing is run."""
    make = trainings(profile, data_hash)
    quantities = {name: dataclasses.replace(one, phases=phases(one, profile, make)) for name, one in QUANTITIES.items()}
    return Study(quantities, absorb=absorb, seconds=profile.cell_s)


def _data_hash(profile: Profile) -> str:
    """Of the tokens of all sizes: that of the tokens where all of them have the same."""
    configs = [profile.base]
    if profile.larger:
        sizes = {name: value for name, value in profile.larger.settings.items() if name in _OF_TOKENS}
        configs.append(dataclasses.replace(profile.base, **sizes))
    hashes = [*dict.fromkeys(load_tokens(config).hash for config in configs)]
    return hashes[0] if len(hashes) == 1 else content_hash(hashes)


def regenerate(
    out_dir: str | Path,
    *,
    profile: str,
    only: Sequence[str] | None = None,
    longer: bool = False,
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
    """Make the figures and tables of a profile, training whatever the tables do not hold yet.

    After an interruption at any instant, the same call continues; it needs only ``evidence.json`` and the parquet files
    of ``OUT_DIR``, so that it may continue in a copy of them elsewhere. With all tables complete, nothing is computed
    and the figures are drawn again, the same byte for byte.

    Args:
        out_dir: ``OUT_DIR``: tables, figures, the page, and the run directories in ``work``.
        profile: ``smoke``, ``cpu`` or ``paper``.
        only: Names of figures; all by default.
        longer: Four times the steps and two more seeds; needs an ``OUT_DIR`` of its own.
        executor: ``local`` for processes of this machine, ``slurm`` for job arrays; trainings that several processes
            share are started by torchrun, here one after the other, on Slurm in their jobs.
        workers: Trainings at a time; by default one per core, or as many as Slurm gives.
        slurm: Options of Slurm: ``{"partition": "gpu", "time": 60}``.
        processes: Of one training, by default as the profile says; several are begun by torchrun, and batches must be
            multiples of them.
        sharding: How they share it: ``ddp`` (the default) keeps the whole model in each of them, ``fsdp`` shards it.
        recompute: Forget the trainings of the chosen figures and repeat them.
        page: Where the page with the claims goes; ``OUT_DIR/evidence.md`` by default.
        pictures: Where the figures go; ``OUT_DIR`` by default.
        draw_only: Draw what the tables hold, and train nothing.

    Returns:
        The page.

    Raises:
        ValueError: If a profile or a figure is not known, or options contradict each other.
        RunError: If ``OUT_DIR`` holds something else or another profile, cannot be written, or Slurm refuses the jobs.
        ModuleNotFoundError: Without the packages that it needs.
        StudyInterrupted: After Ctrl-C.
    """
    require("transformers", extra="hf")
    scale, names = profile_named(profile, longer=longer), chosen(None if only is None else list(only))
    root = local_path(out_dir, error=RunError)
    if draw_only:
        elsewhere = None if executor == "local" else executor
        check_draw_only(
            root, PAPER, executor=elsewhere, workers=workers, slurm=slurm, processes=processes, sharding=sharding,
            recompute=recompute,
        )  # fmt: skip
    several = checked_processes(scale, processes)
    target = local_path(page, error=RunError) if page else root / PAGE
    drawings = local_path(pictures, error=RunError) if pictures else root
    running = executor_of(root / PAPER.trials, executor, workers, slurm, processes=several, sharding=sharding)
    store = open_store(root, scale)

    study = Study(QUANTITIES, finish=lambda _: pages.write(store, target, drawings), pictures=drawings)
    if draw_only:
        draw(study, store, names)
        return target

    def find_data() -> str:
        return _data_hash(scale)

    trains = any(QUANTITIES[name].variants(scale) for name in names)
    recorded = store.data_hash(find_data) if trains else ""
    study = dataclasses.replace(study_of(scale, recorded), data_hash=find_data, finish=study.finish, pictures=drawings)
    conduct(
        study, store, running, names=names, workers=workers_of(executor, workers, processes=several),
        retry=("failed",), recompute=recompute,
    )  # fmt: skip
    return target
