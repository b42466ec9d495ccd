"""The loss at the checkpoints of a run: its Hessian, and the noise of its gradient.

This joins what `subspace_lab.analysis` measures of any model and loss with the models, data and checkpoints of
`subspace_lab.training`, which know nothing of each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from subspace_lab.landscape.hessian import hessian_of_run
    from subspace_lab.landscape.noise import noise_of_run

__all__ = ["hessian_of_run", "noise_of_run"]

_HOMES = {"hessian_of_run": "hessian", "noise_of_run": "noise"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
