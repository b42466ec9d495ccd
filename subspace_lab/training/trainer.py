"""The computation of a training step; what becomes of the run directory is in `loop`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from subspace_lab.training.config import TrainConfig
from subspace_lab.training.models import build_model
from subspace_lab.training.optimizers import build_optimizer
from subspace_lab.training.schedule import Cosine
from subspace_lab.training.sequences import Sequences
from subspace_lab.training.workers import Workers


class Trainer:
    """A model, its optimizer and its data, in one process or in several that see a share of each micro-batch.

    Args:
        config: A resolved configuration, its precision settled.
        sequences: The data.
        workers: This process among the others.

    Attributes:
        model: The model, unwrapped.
        optimizer: Its optimizer.
        schedule: The learning rate by step.
        tokens_per_step: Over all processes.

    Raises:
        ValueError: If a micro-batch cannot be shared evenly, or the data have token numbers that the model does not.
    """

    def __init__(self, config: TrainConfig, sequences: Sequences, workers: Workers) -> None:
        assert config.batch_size
        assert config.accumulation
        assert config.sequence_length
        if config.batch_size % workers.size:
            raise ValueError(f"batch_size={config.batch_size} is not a multiple of the {workers.size} processes")
        self._config = config
        self._sequences = sequences
        self._workers = workers
        self._accumulation = config.accumulation
        self._share = config.batch_size // workers.size
        self.tokens_per_step = config.batch_size * config.accumulation * config.sequence_length
        self.schedule = Cosine.of(config)
        self.model = build_model(config)
        self.model.to(workers.device)  # in place
        self._check_vocabulary(sequences.largest_token)
        self.optimizer = build_optimizer(self.model, config)
        self._parallel = DistributedDataParallel(self.model) if workers.size > 1 else self.model

    def backward(self, step: int) -> float:
        """The gradient of a step, averaged over micro-batches and processes, into the parameters.

        Args:
            step: Steps taken before.

        Returns:
            The loss, averaged in the same way.
        """
        self._seed(step)
        loss = 0.0
        for micro in range(self._accumulation):
            with self._unsynchronized(micro):
                part = self._loss(self._parallel, self._micro_batch(step, micro)) / self._accumulation
                part.backward()  # type: ignore[no-untyped-call]
            loss += part.item()
        return self._workers.sums([loss])[0] / self._workers.size

    def gradient_norm(self) -> Tensor:
        """The global norm of the gradient, the one that clipping uses."""
        norm: Tensor = torch.nn.utils.get_total_norm(self._gradients())
        return norm

    def update(self, step: int, norm: Tensor) -> None:
        """Clip and take the step; the gradient is left for whoever looks at it.

        Args:
            step: Steps taken before.
            norm: From `gradient_norm`.
        """
        if self._config.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self._config.clip, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.at(step)
        self.optimizer.step()

    @torch.no_grad()
    def evaluate(self) -> float:
        """The mean loss on held-out text, the same text every time."""
        assert self._config.batch_size
        rows = self._sequences.held_out(self._config.eval_batches * self._config.batch_size)
        mine = torch.split(rows[self._workers.rank :: self._workers.size], self._share)
        self.model.eval()
        total = sum(self._loss(self.model, batch).item() * len(batch) for batch in mine)
        self.model.train()
        return self._workers.sums([total])[0] / len(rows)

    def _loss(self, model: torch.nn.Module, tokens: Tensor) -> Tensor:
        tokens = tokens.to(self._workers.device)
        half = self._config.precision == "bfloat16"
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=half):
            loss: Tensor = model(input_ids=tokens, labels=tokens).loss
        return loss

    def _micro_batch(self, step: int, micro: int) -> Tensor:
        first = (step * self._accumulation + micro) * self._share * self._workers.size
        return self._sequences.batch(first + self._workers.rank * self._share, self._share, seed=self._config.seed)

    def _unsynchronized(self, micro: int) -> AbstractContextManager[None]:
        """Processes exchange gradients in the last micro-batch only."""
        if isinstance(self._parallel, DistributedDataParallel) and micro < self._accumulation - 1:
            context: AbstractContextManager[None] = self._parallel.no_sync()
            return context
        return nullcontext()

    def _gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]

    def _check_vocabulary(self, largest: int) -> None:
        known = self.model.get_input_embeddings().num_embeddings
        if largest >= known:
            raise ValueError(
                f"the data have token {largest}, the model knows {known}; "
                "use the model's own tokenizer or a larger vocab_size"
            )

    def _seed(self, step: int) -> None:
        """Dropout is a function of (seed, process, step), so that no generator's state has to be saved."""
        words = np.random.SeedSequence([self._config.seed, self._workers.rank, step]).generate_state(1, np.uint64)
        torch.manual_seed(int(words[0]))
