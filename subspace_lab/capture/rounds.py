"""The steps of several optimizers as the steps of one run."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import Optimizer


@dataclass(frozen=True)
class Turn:
    """One step of one optimizer.

    Attributes:
        step: The step of the run that it belongs to.
        leads: Whether this step of the run begins with it.
        optimizer: The one that takes the steps.
        others: The other optimizers of the training.
    """

    step: int
    leads: bool
    optimizer: Optimizer
    others: tuple[Optimizer, ...]

    def concerns(self, parameter: Tensor) -> bool:
        """Whether the gradient of a parameter is to be read now.

        That is when its own optimizer is about to step: before that it may be of another loss, afterwards it may be
        gone. What belongs to no known optimizer is read at the beginning of a step of the run.

        Args:
            parameter: A parameter of the model.

        Returns:
            Whether it is.
        """
        return _holds(self.optimizer, parameter) or (
            self.leads and not any(_holds(other, parameter) for other in self.others)
        )

    def parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """The parameters of a model whose gradients are to be read now."""
        mine, others = _members(self.optimizer), set().union(*map(_members, self.others))
        return [p for p in model.parameters() if id(p) in mine or (self.leads and id(p) not in others)]


class Rounds:
    """Counts the steps of every optimizer; the one that has taken most of them counts for the run.

    So optimizers that take turns share a step, and one that steps more rarely joins whatever step the others are at.
    """

    def __init__(self) -> None:
        self._optimizers: list[Optimizer] = []
        self._counts: list[int] = []
        self._last = -1

    def __contains__(self, optimizer: object) -> bool:
        return any(known is optimizer for known in self._optimizers)

    def add(self, optimizer: Optimizer, start_step: int) -> None:
        """Make an optimizer known.

        Args:
            optimizer: The one that takes the steps.
            start_step: Steps that it has taken before.
        """
        self._optimizers.append(optimizer)
        self._counts.append(start_step)

    def turn(self, optimizer: Optimizer) -> Turn:
        """The turn of an optimizer that is about to step.

        Args:
            optimizer: One that is known.

        Returns:
            Its turn.
        """
        place = next(i for i, known in enumerate(self._optimizers) if known is optimizer)
        count = self._counts[place]
        self._counts[place] += 1
        leads, self._last = count > self._last, max(count, self._last)
        others = tuple(other for other in self._optimizers if other is not optimizer)
        return Turn(self._last, leads, optimizer, others)


def _members(optimizer: Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def _holds(optimizer: Optimizer, parameter: Tensor) -> bool:
    return any(parameter is member for group in optimizer.param_groups for member in group["params"])
