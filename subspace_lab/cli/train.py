"""``subspace-lab train``."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from cyclopts import Parameter

from subspace_lab._text import plain_value
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
    from subspace_lab.training import stored_config, train as start

    if config is not None and config.optimizer_options:
        config = replace(
            config, optimizer_options={k: plain_value(str(v)) for k, v in config.optimizer_options.items()}
        )
    start(run_dir, config, resume=resume)
    if stored_config(run_dir).every is not None:
        print(f"next: subspace-lab analyze {in_shell(run_dir)}")
