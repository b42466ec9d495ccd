"""What trainings would be begun, as command lines; nothing is begun and nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from subspace_lab.experiments.executors.choose import Kind, check_execution
from subspace_lab.experiments.executors.slurm import check_options
from subspace_lab.experiments.trial import Trial
from subspace_lab.runs.errors import in_shell
from subspace_lab.training import TrainConfig


def slurm_lines(
    executor: Kind, slurm: Mapping[str, Any] | None, *, processes: int | None = None, sharding: str | None = None
) -> Iterator[str]:
    """The options of Slurm, where it is the executor; this machine need not have it.

    Yields:
        One line, or none.

    Raises:
        ValueError: If the executor is not known, or options are not valid or have no effect.
    """
    check_execution(executor, None, slurm, processes=processes, sharding=sharding)
    if executor == "slurm":
        check_options(slurm or {})
        options = "".join(f" --{name}={value}" for name, value in (slurm or {}).items())
        yield f"# by Slurm, a job for every training, in which its command runs:{options or ' (no options)'}"


def command_of(trials_dir: Path, trial: Trial, processes: int | None = None, sharding: str | None = None) -> str:
    """The command line of a training, by torchrun where several processes share it."""
    words = ["subspace-lab", "train", str(trials_dir / trial.label), *_settings(TrainConfig.from_dict(trial.config))]
    if processes is not None and processes > 1:
        words = ["torchrun", "--standalone", f"--nproc-per-node={processes}", "--no-python", *words]
        words += [] if sharding is None else ["--sharding", sharding]
    return " ".join(map(in_shell, words))


def _settings(config: TrainConfig) -> list[str]:
    """The settings of a training that differ from the defaults, as flags of the command line."""
    words, defaults = [], TrainConfig(data="stdlib").to_dict()
    for name, value in config.to_dict().items():
        flag = f"--{name.replace('_', '-')}"
        if name == "optimizer_options":
            for option, chosen in (value or {}).items():
                words += [f"{flag}.{option.replace('_', '-')}", str(chosen).lower()]
        elif value != defaults.get(name):  # absent: of a later release
            words += [flag, *(map(str, value) if isinstance(value, list) else [str(value).lower()])]
    return words
