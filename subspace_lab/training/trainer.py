"""The computation of a training step; what becomes of the run directory is in `loop`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from subspace_lab.training.config import TrainConfig
from subspace_lab.training.optimizers import build_optimizer
from subspace_lab.training.schedule import Cosine
from subspace_lab.training.sharding import gathered, parallel, replicated_like, sharding_of, share_of, spread
from subspace_lab.training.tasks.base import Batch, Task, Weighted
from subspace_lab.training.tasks.table import model_for
from subspace_lab.training.workers import Workers


class Trainer:
    """A model, its optimizer and its data, in one process or in several that see a share of each micro-batch.

    Args:
        config: A resolved configuration, its precision resolved.
        task: Rows, loss and metrics.
        workers: This process among the others.
        model: The model to train; by default the one that the configuration names.

    Attributes:
        model: The model, unwrapped.
        optimizer: Its optimizer.
        schedule: The learning rate by step: of the matrices, where the rest has one of its own.
        tokens_per_step: Over all processes.

    Raises:
        ValueError: If a micro-batch cannot be shared evenly.
    """

    def __init__(self, config: TrainConfig, task: Task, workers: Workers, model: nn.Module | None = None) -> None:
        assert config.batch_size
        assert config.accumulation
        self._config = config
        self._task = task
        self._workers = workers
        self._accumulation = config.accumulation
        self._share = share_of(config.batch_size, workers.size)
        self.tokens_per_step = config.batch_size * config.accumulation * task.tokens_per_row
        self.schedule = Cosine.of(config)
        self.model: nn.Module = model_for(config, task) if model is None else model
        nn.Module.to(self.model, workers.device)  # in place
        sharding = sharding_of(config, workers)
        spread(self.model, sharding, workers)
        self.optimizer = build_optimizer(self.model, config)
        self._schedules = [Cosine.of(config, peak=group["lr"]) for group in self.optimizer.param_groups]
        self._parallel = parallel(self.model, sharding)

    def backward(self, step: int) -> float:
        """The gradient of a step, averaged over micro-batches and processes by their weights, into the parameters.

        Args:
            step: Steps taken before.

        Returns:
            The loss, averaged in the same way.
        """
        self._seed(step)
        loss = 0.0
        batches = [self._micro_batch(step, micro) for micro in range(self._accumulation)]
        for micro, (batch, divisor) in enumerate(zip(batches, self._divisors(batches), strict=True)):
            with self._unsynchronized(micro):
                part = self._loss(batch) / divisor
                part.backward()  # type: ignore[no-untyped-call]
            loss += part.item()
        return self._workers.sums([loss])[0] / self._workers.size

    def gradient_norm(self) -> Tensor:
        """The global norm of the gradient, the one that clipping uses."""
        return gathered(torch.nn.utils.get_total_norm(self._gradients()))

    def update(self, step: int, norm: Tensor) -> None:
        """Clip and take the step; the gradient is left for whoever looks at it.

        Args:
            step: Steps taken before.
            norm: From `gradient_norm`.
        """
        if self._config.clip is not None:
            as_gradients = replicated_like(norm, next(self.model.parameters()))
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self._config.clip, as_gradients)
        for group, schedule in zip(self.optimizer.param_groups, self._schedules, strict=True):
            group["lr"] = schedule.at(step)
        self.optimizer.step()

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The metrics on what is held out, the same rows every time."""
        self.model.eval()
        with self._precision():
            found = self._task.evaluate(self.model)
        self.model.train()
        return found

    def _loss(self, batch: Batch) -> Tensor:
        here = {name: tensor.to(self._workers.device) for name, tensor in batch.items()}
        with self._precision():
            return self._task.loss(self._parallel, here)

    def _divisors(self, batches: Sequence[Batch]) -> Sequence[float]:
        """What the loss of each micro-batch is divided by, so that the mean over processes of their sum is the loss."""
        if not isinstance(self._task, Weighted):
            return [self._accumulation] * len(batches)
        weights = [self._task.weight(batch) for batch in batches]
        total = self._workers.sums([sum(weights)])[0]
        return [total / (weight * self._workers.size) for weight in weights]

    def _precision(self) -> torch.autocast:
        half = self._config.precision == "bfloat16"
        return torch.autocast(self._workers.device.type, torch.bfloat16, enabled=half)

    def _micro_batch(self, step: int, micro: int) -> Batch:
        first = (step * self._accumulation + micro) * self._share * self._workers.size
        return self._task.batch(first + self._workers.rank * self._share, self._share, seed=self._config.seed)

    def _unsynchronized(self, micro: int) -> AbstractContextManager[None]:
        """Processes exchange gradients in the last micro-batch only."""
        if isinstance(self._parallel, DistributedDataParallel) and micro < self._accumulation - 1:
            context: AbstractContextManager[None] = self._parallel.no_sync()
            return context
        return nullcontext()

    def _gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]

    def _seed(self, step: int) -> None:
        """Dropout is a function of (seed, process, step), so that no generator's state has to be saved."""
        seed_step(self._config.seed, self._workers.rank, step, device=self._workers.device)


def seed_step(seed: int, rank: int, step: int, *, device: torch.device) -> None:
    """Seed torch's generator for a step.

    Args:
        seed: Of the training.
        rank: Of the process.
        step: Steps taken before.
        device: Where it computes.
    """
    number = int(np.random.SeedSequence([seed, rank, step]).generate_state(1, np.uint64)[0])
    if device.type == "cpu":
        torch.default_generator.manual_seed(number)  # the same, without what torch prepares for other devices
    else:
        torch.manual_seed(number)
