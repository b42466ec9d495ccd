"""Packages that only a part of the library needs."""

from __future__ import annotations

import importlib
from typing import Any


def require(name: str, *, extra: str) -> Any:
    """A package of an extra, imported.

    Args:
        name: The package.
        extra: The extra of this project that installs it.

    Returns:
        The module.

    Raises:
        ModuleNotFoundError: If it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{name} is not installed; run: pip install 'subspace_lab[{extra}]'") from error
