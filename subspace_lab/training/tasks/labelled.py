"""What tasks with labelled rows have in common: their order, the rows held out, and the identity of it all."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor, nn

from subspace_lab.training.config import TrainConfig
from subspace_lab.training.evaluation import probe_count
from subspace_lab.training.sequences import order_of, spread
from subspace_lab.training.tasks.base import LOSS, Batch, Metric
from subspace_lab.training.tasks.exercise import Exercise
from subspace_lab.training.tasks.rows import Row
from subspace_lab.training.workers import Workers

Measured = tuple[float, float, np.ndarray]  # loss, the weight that it counts with, judgements (rows, numbers)
_AT_ONCE = 8  # micro-batches that are replied to together: their caches take less than one's activations in training


@dataclass(frozen=True)
class Encoded:
    """A row as a model takes it.

    Attributes:
        row: The row.
        prompt: Token numbers of the prompt.
        response: Token numbers of the response; empty where a label is predicted.
        segments: Of a model that counts them, the segment of each token of the prompt.
    """

    row: Row
    prompt: Sequence[int]
    response: Sequence[int] = ()
    segments: Sequence[int] = ()

    @property
    def length(self) -> int:
        """Tokens."""
        return len(self.prompt) + len(self.response)


class LabelledTask(ABC):
    """Rows in an order drawn from the seed, and rows held out that share no prompt with them.

    Args:
        config: A resolved configuration: batch, number of held-out micro-batches.
        exercise: Rows, judge and metrics.
        encode: Turns a row into tokens.
        workers: Processes that share an evaluation.

    Attributes:
        exercise: Rows, judge and metrics.
        train: The rows to train on.
        held_out: The rows held out.
        metrics: The loss, and what the exercise measures.
    """

    def __init__(
        self, config: TrainConfig, exercise: Exercise, encode: Callable[[Row], Encoded], workers: Workers
    ) -> None:
        assert config.batch_size
        self.exercise = exercise
        self.train: list[Encoded] = [encode(row) for row in exercise.split.train]
        self.held_out: list[Encoded] = [encode(row) for row in exercise.split.held_out]
        self.metrics: tuple[Metric, ...] = (LOSS, *exercise.metrics)
        self._batch_size = config.batch_size
        self._eval_rows = config.eval_batches * config.batch_size
        self._workers = workers

    @cached_property
    def tokens_per_row(self) -> int:
        """The mean over the rows to train on, rounded."""
        return max(1, round(float(np.mean([row.length for row in self.train]))))

    @cached_property
    def largest_token(self) -> int:
        """The largest token number."""
        return max(max([*of.prompt, *of.response]) for of in (*self.train, *self.held_out))

    @cached_property
    def identity(self) -> str:
        """SHA-256 of the rows in their order, as texts and as tokens."""
        digest = hashlib.sha256(f"{type(self).__name__} {self.exercise.head}".encode())
        for part, rows in (("train", self.train), ("held out", self.held_out)):
            digest.update(part.encode())
            for of in rows:
                digest.update(repr(of).encode())
        return digest.hexdigest()

    def batch(self, first: int, count: int, *, seed: int) -> Batch:
        """See `Task.batch`."""
        return self.collate([self.train[row] for row in order_of(first, count, len(self.train), seed)])

    def probe(self, count: int) -> Batch:
        """See `Task.probe`; of at most 32 held-out rows, spread evenly."""
        rows = self._probed
        return self.collate([rows[row] for row in spread(count, len(rows))])

    def facts(self) -> dict[str, Any]:
        """See `Task.facts`; with the metrics, their direction and unit."""
        digest = hashlib.sha256("".join(map(repr, self._probed)).encode()).hexdigest()
        longest = max(of.length for of in self._probed)
        metrics = [{"name": one.name, "better": one.better, "unit": one.unit} for one in self.metrics]
        return {"sequences": len(self._probed), "tokens": longest, "held_out": True, "hash": digest, "metrics": metrics}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """See `Task.evaluate`; each process takes a share of the rows."""
        rows = [self.held_out[row] for row in spread(self._eval_rows, len(self.held_out))]
        total = weight = 0.0
        judged = np.zeros((len(rows), self.exercise.judged))
        parts = list(self._workers.shares(len(rows), self._batch_size))
        for start in range(0, len(parts), _AT_ONCE):
            some = parts[start : start + _AT_ONCE]
            measured = self.measure(model, [[rows[place] for place in part or [0]] for part in some])
            for part, (loss, counted, found) in zip(some, measured, strict=True):
                if part:
                    total, weight = total + loss * counted, weight + counted
                    judged[part] = found
        total, weight, *flat = self._workers.sums([total, weight, *judged.ravel()])
        everything = np.array(flat).reshape(judged.shape)
        return {LOSS.name: total / weight, **self.exercise.combine([of.row for of in rows], everything)}

    @cached_property
    def _probed(self) -> list[Encoded]:
        return [self.held_out[row] for row in spread(probe_count(len(self.held_out)), len(self.held_out))]

    @abstractmethod
    def collate(self, rows: Sequence[Encoded]) -> Batch:
        """Rows as tensors, padded to the longest of them."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """See `Task.loss`."""

    @abstractmethod
    def measure(self, model: nn.Module, batches: Sequence[Sequence[Encoded]]) -> list[Measured]:
        """What is measured on each of some micro-batches; as many in every process."""
