"""What is costly to make and depends on its inputs alone, kept in the user's cache directory between runs."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from subspace_lab.runs import RunError
from subspace_lab.runs.files import publish

_FORMAT = "1"  # raise it when the same inputs give another result


def cache_dir() -> Path:
    """``$XDG_CACHE_HOME/subspace_lab``, by default ``~/.cache/subspace_lab``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "subspace_lab"


def cache_key(*inputs: str) -> str:
    """A file name for what follows from the inputs."""
    return hashlib.sha256("\0".join([_FORMAT, *inputs]).encode()).hexdigest()[:32]


def cached_text(name: str, make: Callable[[], str]) -> str:
    """A text from the cache, made and published there when it is absent.

    Args:
        name: File name, from `cache_key`.
        make: Makes the text.

    Returns:
        The text.
    """
    path = cache_dir() / name
    if path.is_file():
        return path.read_text(encoding="utf-8")
    text = make()
    _keep(path, lambda aside: aside.write_text(text, encoding="utf-8"))
    return text


def cached_array(name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """An array from the cache, made and published there when it is absent.

    Args:
        name: File name, from `cache_key`.
        make: Makes the array.

    Returns:
        The array, mapped from the file where there is one, so that its size costs no memory.
    """
    path = cache_dir() / name
    if not path.is_file():
        array = make()
        _keep(path, lambda aside: _save(aside, array))
        if not path.is_file():
            return array
    try:
        mapped: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:  # damaged on disk
        path.unlink()
        return cached_array(name, make)
    return mapped


def _save(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def _keep(path: Path, write: Callable[[Path], object]) -> None:
    try:
        with publish(path) as aside:
            write(aside)
    except RunError as error:
        warnings.warn(f"{error}; going on without a cache (XDG_CACHE_HOME says where it is)", stacklevel=2)
