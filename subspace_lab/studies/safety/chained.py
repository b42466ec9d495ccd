"""The hooks of a chain: each defense with a state of its own, the second one sees what the first one made.

The names in the state of a run are those of the defenses with their place in the chain before them: ``1.anchor``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from subspace_lab.studies.safety.context import Kind, Loss, RunContext, State, StepContext
from subspace_lab.studies.safety.stages import DEFENSES, Chain, Defense


def chain_prepare(chain: Chain, run: RunContext) -> None:
    """Call `Defense.prepare` of each, in order; the next one sees the rows that the one before left.

    Args:
        chain: Of one stage.
        run: Before its first step; its rows and its state are changed.
    """
    for place, defense in enumerate(chain.defenses):
        own = dataclasses.replace(run, state=_Part(run.state, place))
        defense.prepare(own)
        run.rows = own.rows


def chain_gradient(chain: Chain, step: StepContext) -> list[Tensor | None]:
    """The gradient of a step: `Defense.gradient` of each, where the next one's ``step.user()`` is what this one made.

    Args:
        chain: Of one stage; without defenses the gradient is the user's.
        step: The step; its state has those of all.

    Returns:
        One tensor per parameter, or None for one that is to be left alone in this step; also where a defense that
        follows gave it a gradient again.

    Raises:
        ValueError: If a defense does not give one gradient of the right shape for each parameter, or changed weights.
    """
    if not chain.defenses:
        return [*step.user()]
    link: _Link | None = None
    for place, defense in enumerate(chain.defenses):
        link = _Link(defense, step, link, place)
        made = link.made()
    return made


def chain_repair(chain: Chain, run: RunContext) -> None:
    """Call `Defense.repair` of each, in order; each measures the model that the one before left.

    Args:
        chain: Of one stage.
        run: After its last step.
    """
    for place, defense in enumerate(chain.defenses):
        defense.repair(dataclasses.replace(run, state=_Part(run.state, place)))


class _Part(MutableMapping[str, Any]):
    """The state of one defense in that of the run."""

    def __init__(self, state: State, place: int) -> None:
        self._state, self._prefix = state, f"{place}."

    def __getitem__(self, key: str) -> Any:
        return self._state[self._prefix + key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._state[self._prefix + key] = value

    def __delitem__(self, key: str) -> None:
        del self._state[self._prefix + key]

    def __iter__(self) -> Iterator[str]:
        return (key.removeprefix(self._prefix) for key in [*self._state] if key.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _Link(StepContext):
    """The step as a defense of a chain sees it: all is the whole step's but the state and the user's gradient."""

    def __init__(self, defense: Defense, step: StepContext, before: _Link | None, place: int) -> None:
        self.parameters, self.index, self.total = step.parameters, step.index, step.total
        self.state = _Part(step.state, place)
        self._defense, self._step, self._link = defense, step, before
        self._key = f"user {place}"

    @property
    def passes(self) -> int:
        return self._step.passes

    def made(self) -> list[Tensor | None]:
        """What the defense makes of the gradient at the weights as they are."""
        return self._step.once(self._key, self._call)

    def gradient(self, kind: Kind, loss: str | Loss = "ce") -> list[Tensor]:
        if kind != "user" or self._link is None:
            return self._step.gradient(kind, loss)
        if loss != "ce":
            raise ValueError(
                f"the defense {self._name!r} replaces the loss of the rows that are trained on, which the defense "
                "before it in the chain has made a gradient of already; write it first"
            )
        before = self._link.at_these_weights()
        return [torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters, before, strict=True)]

    def at_these_weights(self) -> list[Tensor | None]:
        """What the defense made of the step, or makes of it at shifted weights; its state stays as it is there."""
        return self._step.once(self._key, self._call_with_a_copy_of_the_state)

    def once(self, key: str, compute: Callable[[], Sequence[Tensor | None]]) -> list[Any]:
        return self._step.once(f"{key} of {self._key}", compute)

    @contextmanager
    def at(self, delta: Sequence[Tensor]) -> Iterator[None]:
        with self._step.at(delta):
            yield

    def weights(self, name: Literal["base", "aligned"]) -> Sequence[Tensor]:
        return self._step.weights(name)

    def check(self) -> None:
        self._step.check()

    @property
    def _name(self) -> str:
        return DEFENSES.name_of(type(self._defense))

    def _call(self) -> list[Tensor | None]:
        found = [*self._defense.gradient(self)]
        self.check()
        wanted = [p.shape for p in self.parameters]
        if len(found) != len(wanted) or any(
            g is not None and g.shape != shape for g, shape in zip(found, wanted, strict=True)
        ):
            shapes = [None if g is None else tuple(g.shape) for g in found]
            raise ValueError(
                f"the defense {self._name!r} gave gradients of the shapes {shapes}; give one tensor or None for each "
                f"of the {len(wanted)} parameters, of its shape"
            )
        if self._link is None:
            return found
        before = self._link.at_these_weights()
        return [None if old is None else new for old, new in zip(before, found, strict=True)]

    def _call_with_a_copy_of_the_state(self) -> list[Tensor | None]:
        state = self.state
        self.state = dict(state)
        try:
            return self._call()
        finally:
            self.state = state
