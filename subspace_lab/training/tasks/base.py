"""The protocol of a task: its rows in order, its loss, its metrics.

A training is a function of its configuration and its task. Whoever hands over a task of their own
(``train(..., feed=task)``) implements these members; `LanguageTask` is the one that the package ships.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Metric:
    """A number that an evaluation gives, and which direction of it is better.

    Attributes:
        name: Its name in ``metrics.jsonl`` and in tables.
        better: Whether lower or higher values are better.
        unit: Of the number, empty for a share.
    """

    name: str = "eval_loss"
    better: Literal["lower", "higher"] = "lower"
    unit: str = "nats"

    @property
    def sign(self) -> int:
        """1 where lower is better, -1 where higher is: a difference times this is negative for an improvement."""
        return 1 if self.better == "lower" else -1


LOSS = Metric()


class Task(Protocol):
    """Rows, a loss and metrics."""

    @property
    def identity(self) -> str:
        """A hash of everything that decides what a model sees: the same text, in the same order, has the same."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What `evaluate` returns, the one that comparisons go by first."""

    @property
    def tokens_per_row(self) -> int:
        """Tokens that a row counts for in ``metrics.jsonl``."""

    def batch(self, first: int, count: int, *, seed: int) -> Batch:
        """Rows ``first .. first + count - 1`` of an endless stream that is a function of the seed.

        Args:
            first: Rows seen before.
            count: How many.
            seed: Of the order.

        Returns:
            Tensors by name, each with `count` rows, on the CPU.
        """

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss of a batch that is on the model's device.

        Args:
            model: The model, perhaps wrapped for several processes.
            batch: From `batch`.

        Returns:
            A scalar, the mean over rows; of a `Weighted` task the mean over whatever the weight counts.
        """

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """The metrics on rows that are held out, the same rows every time.

        Args:
            model: In evaluation mode; gradients are off.

        Returns:
            Metric to value.
        """

    def probe(self, count: int) -> Batch:
        """So many rows for Hessian and noise, the same ones every time; all of them when there are fewer.

        Args:
            count: How many.

        Returns:
            Tensors by name, on the CPU.
        """

    def facts(self) -> dict[str, Any]:
        """What a run's manifest says of the rows that `probe` takes: JSON-ready."""


@runtime_checkable
class Weighted(Protocol):
    """A task whose rows count differently, by their tokens for example.

    A step's loss is the mean over all of its micro-batches, each by its weight, so that accumulation changes nothing.
    """

    def weight(self, batch: Batch) -> float:
        """How much a batch counts, positive: the number of things that `Task.loss` is the mean over.

        Args:
            batch: From `Task.batch`.
        """
