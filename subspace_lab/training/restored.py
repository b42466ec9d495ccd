"""The models of a run at its checkpoints, and the task that they were trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from subspace_lab._extras import require
from subspace_lab.runs import Run, RunError
from subspace_lab.runs.errors import in_shell
from subspace_lab.runs.run import check_run
from subspace_lab.training.checkpoint import checkpoint_steps, load_model
from subspace_lab.training.config import TrainConfig
from subspace_lab.training.places import task_of_run
from subspace_lab.training.start import stored_config
from subspace_lab.training.tasks.base import Batch, Task, Weighted
from subspace_lab.training.tasks.table import model_for
from subspace_lab.training.workers import Workers

_SHARE = "share"  # of each row of a probe: its weight over the mean weight, so that the loss is a mean over rows


@dataclass(frozen=True)
class RestoredCheckpoints:
    """The checkpoints of a training run, as `subspace_lab.analysis.hessian_of_run` and `noise_of_run` take them.

    Attributes:
        run: An opened run.
        config: How it was trained.
        steps: After how many steps there is a checkpoint, ascending, at least one.
        task: The loss, and the rows that it is measured on: those that the manifest names.
    """

    run: Run
    config: TrainConfig
    steps: list[int]
    task: Task

    @classmethod
    def of(cls, run: Run, *, data: str | None = None, model: str | None = None, tokenizer: str | None = None) -> Self:
        """Look for a run's checkpoints, and read its data again.

        Args:
            run: A run of `subspace_lab.train`.
            data: Where the run's data are now, when they are not found any more (a path or glob); the hash of their
                tokens must be the run's.
            model: Where its pretrained model is now, likewise.
            tokenizer: Where its tokenizer is now, likewise.

        Returns:
            Its checkpoints.

        Raises:
            RunError: If it has none (the message says how to make them), was not begun by a training, or its data are
                not what they were.
        """
        config, steps = _checkpoints(run)
        require("transformers", extra="hf")
        alone = Workers(rank=0, size=1, device=_device())
        config, task = task_of_run(run, config, alone, data=data, model=model, tokenizer=tokenizer)
        if (named := run.manifest.get("evaluation")) is not None and named != task.facts():
            raise RunError(
                f"{run.path} names other evaluation sequences in its manifest than this release takes ({named} there, "
                f"{task.facts()} now); measure it with the release that trained it"
            )
        return cls(run, config, steps, task)

    @property
    def batch_size(self) -> int:
        """Rows in a step of the optimizer."""
        assert self.config.batch_size
        assert self.config.accumulation
        return self.config.batch_size * self.config.accumulation

    def models(self) -> Iterator[tuple[int, nn.Module]]:
        """The model after each checkpoint's steps: one model, loaded again and again, in evaluation mode.

        Yields:
            Steps and model; it is on the GPU where there is one.
        """
        with torch.random.fork_rng(devices=[]):  # building draws the weights that the checkpoint replaces
            model = model_for(self.config, self.task)
        nn.Module.to(model, _device())
        model.eval()
        for step in self.steps:
            load_model(self.run.path, step, model)
            yield step, model

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean loss of a batch, in full precision whatever the run was trained in.

        Args:
            model: From `models`.
            batch: From `probe`, or some of its rows.

        Returns:
            A scalar, a mean over rows: where the task's own loss is one over tokens, a row counts by its share of them.
        """
        shares = batch.get(_SHARE)
        if shares is None:
            return self.task.loss(model, batch)
        return self.task.loss(model, {name: rows for name, rows in batch.items() if name != _SHARE}) * shares.mean()

    def probe(self, count: int, device: torch.device) -> Batch:
        """Rows of the evaluation set, spread evenly.

        Args:
            count: How many; all of them when there are fewer.
            device: Where to.

        Returns:
            Tensors by name, a row for each.
        """
        batch = {name: rows.to(device) for name, rows in self.task.probe(count).items()}
        if isinstance(self.task, Weighted):
            weights = torch.tensor([self.task.weight(row) for row in _one_by_one(batch)], device=device)
            batch[_SHARE] = weights / weights.mean()
        return batch


def _one_by_one(batch: Batch) -> Iterator[Batch]:
    for place in range(len(next(iter(batch.values())))):
        yield {name: rows[place : place + 1] for name, rows in batch.items()}


def _checkpoints(run: Run) -> tuple[TrainConfig, list[int]]:
    """How a run was trained, and the steps of its checkpoints; a run without any is refused."""
    check_run(run)
    how = (
        "train with: subspace-lab train NEW_DIR --checkpoint-every 50 --keep-checkpoints 5, "
        "or measure a model of your own with subspace_lab.analysis.hessian(model, loss, batch)"
    )
    if not isinstance(run.manifest.get("config"), dict):
        raise RunError(f"{run.path} was not begun by subspace-lab train, so that it has no checkpoints; {how}")
    config, steps = stored_config(run.path), checkpoint_steps(run.path)
    if not steps:
        resume = f"resume it: subspace-lab train {in_shell(run.path)} --resume"
        raise RunError(f"{run.path} has no checkpoints; {how if run.manifest.get('finished') else resume}")
    return config, steps


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
