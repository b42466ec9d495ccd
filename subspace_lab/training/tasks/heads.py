"""Labelled tasks of encoders: a head on the model predicts a class or a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from subspace_lab.training.config import TrainConfig
from subspace_lab.training.pretrained import pretrained_tokenizer
from subspace_lab.training.tasks.base import Batch, Metric
from subspace_lab.training.tasks.exercise import Exercise, Head
from subspace_lab.training.tasks.labelled import Encoded, LabelledTask, Measured
from subspace_lab.training.tasks.rows import Row
from subspace_lab.training.workers import Workers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class HeadTask(LabelledTask):
    """Texts with a label; the loss is the mean cross-entropy in nats, or for numbers the mean squared error.

    Args:
        config: A resolved configuration of an encoder.
        exercise: Rows, judge and metrics.
        tokenizer: The encoder's; texts that are too long are cut at their ends, the longer of two first.
        workers: Processes that share an evaluation.

    Attributes:
        head: What the head gives.

    Raises:
        ValueError: If the exercise asks for written replies.
    """

    def __init__(
        self, config: TrainConfig, exercise: Exercise, tokenizer: PreTrainedTokenizerBase, workers: Workers
    ) -> None:
        if exercise.head is None:
            raise ValueError(
                f"model={config.model!r} is an encoder, which does not write replies as task {config.task!r} needs; "
                "give a causal language model, or task sentiment or classification"
            )
        self.head: Head = exercise.head
        self._tokenizer = tokenizer
        self._most = config.sequence_length
        super().__init__(config, exercise, self._encoded, workers)
        if not self.head.labels:
            self.metrics = (Metric(unit=""), *exercise.metrics)  # a squared error is not in nats

    @classmethod
    def of(cls, config: TrainConfig, exercise: Exercise, workers: Workers) -> Self:
        """The task of a configuration."""
        return cls(config, exercise, pretrained_tokenizer(config.tokenizer or config.model or ""), workers)

    def _encoded(self, row: Row) -> Encoded:
        found = self._tokenizer(*row.texts, truncation="longest_first", max_length=self._most)
        return Encoded(row, found["input_ids"], segments=found.get("token_type_ids", ()))

    def collate(self, rows: Sequence[Encoded]) -> Batch:
        """Rows as tensors, padded on the right."""
        length = max(of.length for of in rows)
        shape = (len(rows), length)
        batch: dict[str, Tensor] = {
            "input_ids": torch.full(shape, self._tokenizer.pad_token_id or 0),
            "attention_mask": torch.zeros(shape, dtype=torch.int64),
        }
        if rows[0].segments:
            batch["token_type_ids"] = torch.zeros(shape, dtype=torch.int64)
        for place, of in enumerate(rows):
            batch["input_ids"][place, : of.length] = torch.tensor([*of.prompt])
            batch["attention_mask"][place, : of.length] = 1
            if of.segments:
                batch["token_type_ids"][place, : of.length] = torch.tensor([*of.segments])
        labels = [of.row.label for of in rows]
        kind = torch.int64 if self.head.labels else torch.float32
        return {**batch, "labels": torch.tensor(labels, dtype=kind)}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """See `Task.loss`."""
        return self._loss(self._logits(model, batch), batch["labels"])

    def measure(self, model: nn.Module, batches: Sequence[Sequence[Encoded]]) -> list[Measured]:
        """See `LabelledTask.measure`."""
        return [self._measured(model, rows) for rows in batches]

    def _measured(self, model: nn.Module, rows: Sequence[Encoded]) -> Measured:
        device = next(model.parameters()).device
        batch = {name: tensor.to(device) for name, tensor in self.collate(rows).items()}
        logits = self._logits(model, batch)
        found = (logits.argmax(-1) if self.head.labels else logits[:, 0]).double().cpu().numpy()
        judged = np.zeros((len(rows), self.exercise.judged))
        judged[:, 0] = found
        return self._loss(logits, batch["labels"]).item(), float(len(rows)), judged

    def _logits(self, model: nn.Module, batch: Batch) -> Tensor:
        inputs: dict[str, Any] = {name: tensor for name, tensor in batch.items() if name != "labels"}
        logits: Tensor = model(**inputs).logits.float()
        return logits

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.head.labels:
            return nn.functional.cross_entropy(logits, labels)
        return nn.functional.mse_loss(logits[:, 0], labels)
