"""What is costly to make and depends on its inputs alone, kept in the user's cache directory between runs.

Beside every entry lies a small file with its size and SHA-256, written after it; an entry is a file or a directory of
files. One that does not agree with that file, for whatever reason, is made again.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from subspace_lab.runs import RunError
from subspace_lab.runs.files import file_hash, publish, remove_partial

_FORMAT = "1"  # raise it when the same inputs give another result
_SEAL_LENGTH = 100  # characters at most


def cache_dir() -> Path:
    """``$XDG_CACHE_HOME/subspace_lab``, by default ``~/.cache/subspace_lab``.

    Returns:
        The directory, which may not exist.

    Raises:
        RunError: If the user has no home directory, and ``XDG_CACHE_HOME`` is not set.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "subspace_lab"
    except RuntimeError as error:
        raise RunError("there is no home directory to keep a cache in") from error


def cache_key(*inputs: str) -> str:
    """A file name for what follows from the inputs."""
    return hashlib.sha256("\0".join([_FORMAT, *inputs]).encode()).hexdigest()[:32]


def cached_text(name: str, make: Callable[[], str]) -> str:
    """A text from the cache, made and published there when it is absent or damaged.

    Args:
        name: File name, from `cache_key`.
        make: Makes the text.

    Returns:
        The text.
    """
    if (path := find_cached(name)) is not None:
        return path.read_text(encoding="utf-8")
    text = make()
    _keep(name, lambda aside: aside.write_bytes(text.encode()))
    return text


def cached_array(name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """An array from the cache, made and published there when it is absent or damaged.

    Args:
        name: File name, from `cache_key`.
        make: Makes the array.

    Returns:
        The array, mapped from the file where there is one, so that its size costs no memory.
    """
    if (found := _mapped(name)) is not None:
        return found
    array = make()
    _keep(name, lambda aside: _save(aside, array))
    found = _mapped(name)
    return array if found is None else found


def cached_path(name: str, make: Callable[[Path], object], *, directory: bool = False) -> Path:
    """A file, or a directory of files, in the cache; made and published there when it is absent or damaged.

    Args:
        name: File name.
        make: Writes it to the path that it is given.
        directory: Whether it is a directory, which is there already when `make` is called.

    Returns:
        Where it is.

    Raises:
        RunError: If the cache cannot be written.
    """
    if (found := find_cached(name)) is not None:
        return found
    path = cache_dir() / name
    try:
        if path.parent.is_dir():
            remove_partial(path.parent)  # large, where a process was killed
        _publish(path, make, directory=directory)
    except RunError as error:
        raise RunError(f"{error} (the cache: XDG_CACHE_HOME says where it is)") from error
    return path


def _mapped(name: str) -> np.ndarray | None:
    path = find_cached(name)
    if path is None:
        return None
    mapped: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped


def _save(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def _keep(name: str, write: Callable[[Path], object]) -> None:
    try:
        _publish(cache_dir() / name, write)
    except RunError as error:
        warnings.warn(f"{error}; going on without a cache (XDG_CACHE_HOME says where it is)", stacklevel=2)


def _publish(path: Path, write: Callable[[Path], object], *, directory: bool = False) -> None:
    with publish(path, directory=directory) as aside:
        write(aside)
        seal = _seal_of(aside)
    with publish(_seal(path)) as aside:
        aside.write_text(seal, encoding="ascii")


def find_cached(name: str) -> Path | None:
    """Where an entry is, None for one that is absent, damaged or cannot be read."""
    try:
        path = cache_dir() / name
        if not ((path.is_file() or path.is_dir()) and _seal(path).is_file()):
            return None
        with _seal(path).open(encoding="ascii", errors="replace") as file:
            seal = file.read(_SEAL_LENGTH)
        is_sound = seal.partition(" ")[0] == str(sum(_sizes(path))) and seal == _seal_of(path)
    except (OSError, RunError):
        return None
    return path if is_sound else None


def _seal(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _seal_of(path: Path) -> str:
    """Size and SHA-256 of a file; of a directory the sum, and the SHA-256 of the names with their SHA-256."""
    parts = _parts(path)
    digests = [file_hash(part) for part in parts]
    if path.is_dir():
        listed = "".join(f"{digest} {part.name}\n" for part, digest in zip(parts, digests, strict=True))
        digests = [hashlib.sha256(listed.encode()).hexdigest()]
    return f"{sum(_sizes(path))} {digests[0]}"


def _sizes(path: Path) -> list[int]:
    return [part.stat().st_size for part in _parts(path)]


def _parts(path: Path) -> list[Path]:
    """The files of an entry."""
    if not path.is_dir():
        return [path]
    parts = sorted(path.iterdir())
    for part in parts:
        if not part.is_file():
            raise FileNotFoundError(part)
    return parts
