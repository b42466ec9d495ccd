"""What a caller may do between backward and step, and after the step, and keep in the checkpoints."""

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
        state: What the two must remember for an exact resume.
    """

    before: Callable[[int, nn.Module], None] | None = None
    after: Callable[[int, nn.Module], None] | None = None
    state: Stateful | None = None
