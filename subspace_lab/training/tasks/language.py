"""Predicting the next token of text, as in pretraining."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Self

from torch import Tensor, nn

from subspace_lab.training.config import TrainConfig
from subspace_lab.training.evaluation import EvaluationSet
from subspace_lab.training.sequences import Sequences
from subspace_lab.training.tasks.base import LOSS, Batch, Metric
from subspace_lab.training.tokens import TokenData
from subspace_lab.training.workers import Workers


class LanguageTask:
    """Sequences of one length; the loss is the mean cross-entropy of the next token in nats.

    Args:
        config: A resolved configuration: batch and number of held-out micro-batches.
        sequences: The text as tokens.
        workers: Processes that share an evaluation.
        data_hash: Of the tokens in their order.
    """

    metrics: tuple[Metric, ...] = (LOSS,)

    def __init__(self, config: TrainConfig, sequences: Sequences, workers: Workers, data_hash: str = "") -> None:
        assert config.batch_size
        assert config.sequence_length
        self.sequences = sequences
        self.identity = data_hash
        self.tokens_per_row = config.sequence_length
        self._batch_size = config.batch_size
        self._eval_rows = config.eval_batches * config.batch_size
        self._workers = workers

    @property
    def largest_token(self) -> int:
        """The largest token number."""
        return self.sequences.largest_token

    @classmethod
    def of_tokens(cls, config: TrainConfig, data: TokenData, workers: Workers) -> Self:
        """The task of a configuration.

        Args:
            config: A resolved configuration; text is held out where it evaluates.
            data: The tokens that it names.
            workers: Processes that share an evaluation.

        Returns:
            The task.
        """
        assert config.sequence_length
        sequences = Sequences(data.tokens, config.sequence_length, hold_out=config.eval_every is not None)
        return cls(config, sequences, workers, data.hash)

    def batch(self, first: int, count: int, *, seed: int) -> Batch:
        """See `Task.batch`."""
        return _labelled(self.sequences.batch(first, count, seed=seed))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """See `Task.loss`."""
        loss: Tensor = model(**batch).loss
        return loss

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """See `Task.evaluate`; each process takes a share of the rows."""
        rows = self.sequences.held_out(self._eval_rows)
        device = next(model.parameters()).device
        total = 0.0
        for part in self._workers.shares(len(rows), self._batch_size):
            loss = self.loss(model, _labelled(rows[part or [0]].to(device))).item()
            total += loss * len(part)
        return {LOSS.name: self._workers.sums([total])[0] / len(rows)}

    @cached_property
    def evaluation(self) -> EvaluationSet:
        """The sequences that quantities of the loss are measured on."""
        return EvaluationSet.of(self.sequences)

    def probe(self, count: int) -> Batch:
        """See `Task.probe`."""
        return _labelled(self.evaluation.first(count))

    def facts(self) -> dict[str, Any]:
        """See `Task.facts`."""
        return self.evaluation.facts()


def _labelled(tokens: Tensor) -> Batch:
    return {"input_ids": tokens, "labels": tokens}
