"""What the hooks of a defense may ask for: the gradients of a step, and a run before its first step or after it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from subspace_lab.studies.safety.kinds import Marked
from subspace_lab.training.tasks.base import Batch

Kind = Literal["user", "safety", "harm"]
Loss = Callable[[nn.Module, Batch], Tensor]
Losses = Callable[
    [Kind, str | Loss], Iterable[Tensor]
]  # the parts whose sum is the loss of this step's batch of a kind


class StepContext:
    """The gradients of one step.

    Args:
        parameters: The trainable ones.
        losses: Gives the loss of this step's batch of a kind, in parts (micro-batches): scalars with a graph.
        weights: ``base`` and ``aligned``: tensors in the order of the parameters; missing where there are none.
        state: What the defense remembers, ``run.state``.
        index: Steps taken before.
        total: Steps of the training.

    Attributes:
        parameters: The trainable ones.
        state: Tensors and plain numbers, in every checkpoint.
        index: Steps taken before.
        total: Steps of the training.
        passes: Forward-backward passes so far in this step.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        losses: Losses,
        *,
        weights: Mapping[str, Callable[[], Sequence[Tensor]]] | None = None,
        state: dict[str, Any] | None = None,
        index: int = 0,
        total: int = 1,
    ) -> None:
        self.parameters = list(parameters)
        self.state = {} if state is None else state
        self.index, self.total = index, total
        self.passes = 0
        self._losses, self._weights = losses, weights or {}

    def user(self) -> list[Tensor]:
        """The gradient of the rows that are trained on, one tensor per parameter."""
        raise NotImplementedError

    def safety(self, loss: Literal["ce", "kl"] = "ce") -> list[Tensor]:
        """The gradient of this step's safety rows: cross-entropy, or KL divergence to the aligned model."""
        raise NotImplementedError

    def harm(self) -> list[Tensor]:
        """The gradient of this step's harm rows."""
        raise NotImplementedError

    def gradient(self, kind: Kind, loss: str | Loss = "ce") -> list[Tensor]:
        """The gradient of another loss of this step's batch of a kind."""
        raise NotImplementedError

    def at(self, delta: Sequence[Tensor]) -> AbstractContextManager[None]:
        """Shift the weights by `delta`, and put back the very bits afterwards."""
        raise NotImplementedError

    def weights(self, name: Literal["base", "aligned"]) -> Sequence[Tensor]:
        """The weights of an earlier model, in the order of the parameters."""
        raise NotImplementedError


@dataclass
class RunContext:
    """A run before its first step, for `Defense.prepare`, or after its last one, for `Defense.repair`.

    Attributes:
        model: The model.
        rows: What is trained on; `prepare` may replace it. Empty in a repair.
        state: What the defense remembers; tensors and plain numbers.
        pools: Rows of the kinds ``safety`` and ``harm``.
        batches: Turns rows into batches of tensors on the model's device, in their order.
        earlier: ``base`` and ``aligned``: tensors by the names of the parameters of a model without adapters.
        seed: Of everything that is drawn.
        steps: Of the training.
        batch_size: Rows of a step.
    """

    model: nn.Module
    rows: list[Marked]
    state: dict[str, Any]
    pools: Mapping[str, Sequence[Marked]]
    batches: Callable[[Sequence[Marked]], Iterator[Batch]]
    earlier: Mapping[str, Callable[[], Mapping[str, Tensor]]] = field(default_factory=dict)
    seed: int = 0
    steps: int = 0
    batch_size: int = 1
