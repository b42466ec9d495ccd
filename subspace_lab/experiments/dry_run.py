"""What trainings would be begun, as command lines; nothing is begun and nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from subspace_lab.experiments.executors.choose import Kind, check_execution
from subspace_lab.experiments.executors.slurm import check_options
from subspace_lab.experiments.executors.torchrun import command
from subspace_lab.experiments.trial import Trial
from subspace_lab.runs.errors import in_shell
from subspace_lab.training import TrainConfig


def slurm_lines(executor: Kind, slurm: Mapping[str, Any] | None) -> Iterator[str]:
    """The options of Slurm, where it is the executor; this machine need not have it.

    Yields:
        One line, or none.

    Raises:
        ValueError: If the executor is not known, or options are not valid or have no effect.
    """
    check_execution(executor, None, slurm)
    if executor == "slurm":
        check_options(slurm or {})
        options = "".join(f" --{name}={value}" for name, value in (slurm or {}).items())
        yield f"# by Slurm, a job for every training, in which its command runs:{options or ' (no options)'}"


def command_of(trials_dir: Path, trial: Trial, processes: int = 1) -> str:
    """The command line of a training, of torchrun where several processes share it."""
    if processes > 1:
        return " ".join(map(in_shell, command(trials_dir, trial.label, processes)))
    words = ["subspace-lab", "train", str(trials_dir / trial.label), *_settings(TrainConfig.from_dict(trial.config))]
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
