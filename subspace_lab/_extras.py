"""Packages that only a part of the library needs."""

from __future__ import annotations

import importlib
from typing import Any


def require(name: str, *, extra: str | None = None) -> Any:
    """A package that not everyone needs, imported.

    Args:
        name: The package.
        extra: The extra of this project that installs it; None for one that is installed by itself.

    Returns:
        The module.

    Raises:
        ModuleNotFoundError: If it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        what = name.replace("_", "-") if extra is None else f"'subspace_lab[{extra}]'"
        raise ModuleNotFoundError(f"{name} is not installed; run: pip install {what}") from error
