"""Modules of packages that cannot be imported whole."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types


def submodule(package: str, name: str) -> types.ModuleType:
    """A module of a package without its ``__init__``, which imports CUDA libraries that the module does not need.

    Args:
        package: The package.
        name: The module's name in it.

    Returns:
        The module.

    Raises:
        SystemExit: If the package is not installed; says how to install it.
    """
    if package not in sys.modules:
        found = importlib.util.find_spec(package)
        if found is None:
            raise SystemExit(f"{package} is not installed: pip install --no-deps {package.replace('_', '-')}")
        bare = types.ModuleType(package)
        bare.__path__ = list(found.submodule_search_locations or [])
        sys.modules[package] = bare
    return importlib.import_module(f"{package}.{name}")
