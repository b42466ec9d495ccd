"""``subspace-lab train``."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Annotated

from cyclopts import Parameter

from subspace_lab.cli.parameters import RunDir
from subspace_lab.training.config import TrainConfig

Config = Annotated[TrainConfig, Parameter(name="*", consume_multiple=True, negative_iterable=())]


def train(run_dir: RunDir, /, config: Config | None = None, *, resume: bool = False) -> None:
    """Train a small language model while its gradients are captured.

    Parameters
    ----------
    run_dir
        Where the run goes; must not hold anything yet.
    config
        Settings of the training and of the capture.
    resume
        Go on with an interrupted run, from its last checkpoint.
    """
    from subspace_lab.runs.errors import in_shell
    from subspace_lab.training import train as start

    if config is not None and config.optimizer_options:
        config = replace(config, optimizer_options={k: _plain(v) for k, v in config.optimizer_options.items()})
    start(run_dir, config, resume=resume)
    print(f"next: subspace-lab analyze {in_shell(run_dir)}")


def _plain(value: object) -> object:
    """What a word of the command line stands for: a number, true, false, none, or itself."""
    words = {"true": True, "false": False, "none": None}
    if not isinstance(value, str) or value.lower() in words:
        return words.get(str(value).lower(), value)
    for number in (int, float):
        with suppress(ValueError):
            return number(value)
    return value
