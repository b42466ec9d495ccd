"""What a profile would train: every command, its memory and its tokens; nothing is begun and nothing is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from subspace_lab._paths import local_path
from subspace_lab.experiments.executors.choose import Kind, check_execution
from subspace_lab.experiments.executors.slurm import check_options
from subspace_lab.experiments.executors.torchrun import command
from subspace_lab.optim import MemoryReport, memory_report, method_named
from subspace_lab.runs.errors import RunError, in_shell
from subspace_lab.studies.grass_paper.cells import base_config, tuning_cells
from subspace_lab.studies.grass_paper.making import settled
from subspace_lab.studies.grass_paper.profiles import Profile
from subspace_lab.studies.grass_paper.quantities import QUANTITIES, chosen
from subspace_lab.studies.grass_paper.store import WORK
from subspace_lab.studies.grass_paper.variants import CAPTURED, Variants, captured
from subspace_lab.studies.optimizers.cells import Cell, cells_of, parse_methods
from subspace_lab.training import TrainConfig, parameter_shapes, preset

_TERA = 1e12
_GIGA = 1e9


def plan_lines(
    out_dir: str | Path,
    profile: str,
    *,
    only: list[str] | None = None,
    longer: bool = False,
    executor: Kind = "local",
    slurm: Mapping[str, Any] | None = None,
) -> Iterator[str]:
    """What a profile would train, line by line.

    Args:
        out_dir: Where it would go.
        profile: Its name.
        only: Names of figures; all by default.
        longer: Whether the longer variant is meant.
        executor: ``slurm`` if every command is to be one of a job; there need be no Slurm here.
        slurm: Options of Slurm.

    Yields:
        Three lines per training (what, memory and tokens, the command), and a sum at the end.
    """
    scale, names = settled(profile, longer=longer), chosen(only)
    check_execution(executor, None, slurm)
    if executor == "slurm":
        check_options(slurm or {})
        told = "".join(f" --{name}={value}" for name, value in (slurm or {}).items())
        yield f"# by Slurm, a job for every training, in which its command runs:{told or ' (no options)'}"
    known: set[str] = set()
    tokens, trainings = 0.0, 0.0
    for name in names:
        yield f"# {name}: {QUANTITIES[name].title}"
        for cell in _cells(scale, name):
            if cell.name in known:
                continue
            known.add(cell.name)
            runs = 1 if cell.method.startswith(CAPTURED) else 1 + (scale.seeds - 1) / len(scale.lrs)
            tokens, trainings = tokens + round(runs * tokens_of(cell.config)), trainings + runs
            yield from _lines(cell, local_path(out_dir, error=RunError) / WORK / "cells", scale.processes)
    yield (
        f"# {round(trainings)} trainings, {tokens / _TERA:.3g} T tokens, with the {scale.seeds - 1} further seeds "
        "at each best learning rate"
    )


def _cells(scale: Profile, name: str) -> list[Cell]:
    quantity = QUANTITIES[name]
    variants = quantity.variants(scale)
    if not variants:
        return []
    seeds, further = quantity.captured(scale), captured(scale)
    rates = {CAPTURED + method: scale.lrs[len(scale.lrs) // 2] for method in seeds}  # any: the best is not known yet
    extra = [
        dataclasses.replace(cell, method=f"{CAPTURED}{method}")
        for method, number in seeds.items()
        for cell in _captured(scale, {CAPTURED + method: further[CAPTURED + method]}, rates, number)
    ]
    return [*tuning_cells(variants, scale), *extra]


def _captured(scale: Profile, variant: Variants, rates: dict[str, float], number: int) -> list[Cell]:
    (name,) = variant
    return cells_of(parse_methods(variant), [rates[name]], number, base_config(scale))


def tokens_of(config: TrainConfig) -> int:
    """Tokens of a training."""
    assert config.steps
    assert config.batch_size
    assert config.accumulation
    assert config.sequence_length
    return config.steps * config.batch_size * config.accumulation * config.sequence_length


def memory_of(config: TrainConfig) -> MemoryReport:
    """Bytes of a training in each process, activations excepted.

    Args:
        config: Of a preset.

    Returns:
        The memory report.
    """
    assert config.preset is not None
    size = preset(config.preset)
    shapes = parameter_shapes(dataclasses.replace(size, vocab_size=config.vocab_size or size.vocab_size))
    kind = method_named(config.optimizer)
    known = getattr(kind, "options", ())
    options = {name: value for name, value in (config.optimizer_options or {}).items() if name in known}
    return memory_report(shapes, kind, rank=config.rank or size.usual_rank, **options)


def _lines(cell: Cell, cells_dir: Path, processes: int) -> Iterator[str]:
    report, config = memory_of(cell.config), cell.config
    yield f"# {cell.method}, lr {cell.lr:g}, seed {cell.seed}"
    sizes = {"weights": report.weights, "gradients": report.gradients, "optimizer": report.optimizer}
    parts = ", ".join(f"{name} {size / _GIGA:.2f}" for name, size in sizes.items())
    yield f"#   {tokens_of(config):,} tokens; per process {report.total / _GIGA:.2f} GB beside activations: {parts}"
    if processes > 1:
        yield " ".join(map(in_shell, command(cells_dir, cell.name, processes)))
    else:
        yield " ".join(map(in_shell, ["subspace-lab", "train", str(cells_dir / cell.name), *_settings(config)]))


def _settings(config: TrainConfig) -> list[str]:
    """The settings of a training that are no defaults, as the command line has them."""
    words, defaults = [], TrainConfig().to_dict()
    for name, value in config.to_dict().items():
        flag = f"--{name.replace('_', '-')}"
        if name == "optimizer_options":
            for option, chosen in (value or {}).items():
                words += [f"{flag}.{option.replace('_', '-')}", str(chosen).lower()]
        elif value != defaults[name]:
            words += [flag, *(map(str, value) if isinstance(value, list) else [str(value).lower()])]
    return words
