"""Optimizers side by side: the same model, data, seeds and budget, the learning rate tuned for each.

``import subspace_lab.studies.optimizers`` is cheap: torch and pandas are imported when a name is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from subspace_lab.studies.optimizers.comparison import Comparison
    from subspace_lab.studies.optimizers.study import compare

__all__ = ["Comparison", "compare"]

_LATE = {"Comparison": "comparison", "compare": "study"}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
