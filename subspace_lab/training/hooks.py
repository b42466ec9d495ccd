"""What a caller may do instead of the backward pass, before and after the step, and keep in the checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn


class Stateful(Protocol):
    """Something with a state of tensors and plain values by name, kept in every checkpoint and restored from it."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Take a state that `state_dict` gave."""


@dataclass(frozen=True)
class StepHooks:
    """What is to happen around the steps of a training.

    Attributes:
        before: Called with the step (steps taken before) and the model between backward and step. It may change the
            gradients in place: what it leaves is captured, measured, clipped and stepped with.
        after: Called with the same after the step, with the gradient still there.
        state: What they must remember for an exact resume.
        backward: Called with the step, the model and the plain backward pass, which it may call, instead of that pass.
            It leaves the gradient of the step in the parameters (None for one that the step is to leave alone) and
            returns the loss. Only where one process trains.
    """

    before: Callable[[int, nn.Module], None] | None = None
    after: Callable[[int, nn.Module], None] | None = None
    state: Stateful | None = None
    backward: Callable[[int, nn.Module, Callable[[], float]], float] | None = None
