"""Plug-ins: modules that the caller names, imported in every process before anything of theirs is looked up."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from subspace_lab._paths import local_path
from subspace_lab._text import first_line
from subspace_lab.runs.files import file_hash

PACKAGE = __name__.partition(".")[0]
_FILE = ".py"


def absolute(plugins: Iterable[str]) -> tuple[str, ...]:
    """The plug-ins with the paths of files made absolute, as processes that begin elsewhere need them."""
    return tuple(str(local_path(name).resolve()) if name.endswith(_FILE) else name for name in plugins)


def import_plugins(plugins: Iterable[str]) -> None:
    """Import modules, by their names (``my_module``) or as files (``path/to/file.py``), each once in a process.

    Args:
        plugins: What the caller named; nothing else is ever imported.

    Raises:
        ValueError: If one is not there, or cannot be imported; one line.
    """
    for name in plugins:
        try:
            _import_file(name) if name.endswith(_FILE) else importlib.import_module(name)
        except Exception as error:  # a plug-in may raise anything
            raise ValueError(
                f"the plug-in {name!r} cannot be imported ({type(error).__name__}: {first_line(error)}); give a module "
                "on the path, or a .py file"
            ) from error


def is_shipped(module: str) -> bool:
    """Whether a module is of this package, whose classes have a revision; a plug-in's source counts instead."""
    return module.partition(".")[0] == PACKAGE


def version_of(cls: type) -> dict[str, Any]:
    """What a content says of the version of a class: the revision of a shipped one, of others their source file.

    Args:
        cls: A class; a shipped one has a ``revision``.

    Returns:
        ``{"revision": 1}`` or ``{"source": SHA-256}``.

    Raises:
        ValueError: If a plug-in's class has no source file.
    """
    if is_shipped(cls.__module__):
        return {"revision": cls.revision}  # type: ignore[attr-defined]
    try:
        file = inspect.getsourcefile(cls)
    except TypeError:
        file = None
    if file is None or not Path(file).is_file():
        raise ValueError(f"the class {cls.__qualname__} has no source file; define it in a plug-in, a module or a file")
    return {"source": file_hash(Path(file))}


def _import_file(name: str) -> None:
    path = local_path(name).resolve()
    if not path.is_file():
        raise FileNotFoundError("there is no such file")
    module_name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if module_name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
