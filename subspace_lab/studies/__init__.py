"""Studies: what varies, what is measured and what is claimed; a package each, none imports another.

``import subspace_lab.studies`` is cheap.
"""

from __future__ import annotations

import importlib
from types import ModuleType

_STUDIES = ("grass_paper", "optimizers", "plans")


def __getattr__(name: str) -> ModuleType:
    if name not in _STUDIES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")
