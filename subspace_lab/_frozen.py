"""Parameters whose gradient an optimizer has switched off for a while; they are trained all the same.

`requires_grad` belongs to the model and outlives the optimizer. The optimizer's part in it is kept here: it is undone
when the optimizer is closed or collected, and whoever asks which parameters are trained asks `is_trained`.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

from torch import Tensor


class Frozen:
    """What one optimizer has switched off.

    Args:
        owner: The optimizer; when it is collected, everything is switched on again.

    Attributes:
        is_closed: Whether the owner switches nothing any more.
    """

    def __init__(self, owner: object) -> None:
        self.is_closed = False
        self._held: dict[int, Tensor] = {}
        self._off: list[Tensor] = []
        _ALL.add(self)
        weakref.finalize(owner, self.close).atexit = False

    def let_through(self, parameters: Sequence[Tensor], active: set[int]) -> None:
        """Gradients for the active ones of some parameters only.

        Args:
            parameters: All parameters that the owner switches.
            active: Their ids.
        """
        if self.is_closed:
            return
        earlier, self._held = self._off, {id(p): p for p in parameters}
        self._off = [p for p in parameters if id(p) not in active]
        for p in self._off:
            p.requires_grad_(False)
            p.grad = None
        off = {id(p) for p in self._off}
        for p in (*earlier, *parameters):
            if id(p) not in off:
                p.requires_grad_(True)

    def close(self) -> None:
        """Switch everything on again, for good."""
        self.is_closed = True
        for p in self._off:
            p.requires_grad_(True)
        self._off, self._held = [], {}

    def holds(self, p: Tensor) -> bool:
        """Whether the owner switches a parameter on and off."""
        return id(p) in self._held


_ALL: weakref.WeakSet[Frozen] = weakref.WeakSet()


def is_trained(p: Tensor) -> bool:
    """Whether a parameter requires a gradient, now or when its turn comes."""
    return p.requires_grad or any(frozen.holds(p) for frozen in _ALL)


def close_others(parameters: Sequence[Tensor], own: Frozen | None) -> bool:
    """Close whatever else switches some parameters on and off.

    Args:
        parameters: What a new optimizer is to train.
        own: What that optimizer has switched off itself.

    Returns:
        Whether there was anything.
    """
    others = [frozen for frozen in _ALL if frozen is not own and any(frozen.holds(p) for p in parameters)]
    for frozen in others:
        frozen.close()
    return bool(others)
