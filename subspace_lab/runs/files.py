"""Publishing files, whole or not at all, and never outside the run directory."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock, Timeout

from subspace_lab.runs.errors import RunError

PARTIAL = ".partial"
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}  # of a file system without


@contextmanager
def publish(path: Path, *, within: Path | None = None, directory: bool = False) -> Iterator[Path]:
    """Write a file aside, flush it to disk and rename it, so that the file is there whole or not at all.

    Aside means in a directory of its own beside the file, since some writers make temporary files of their own, which
    a killed process would leave among the published ones.

    Args:
        path: Where the file is to appear.
        within: A directory that is not made again should it be gone: the run that the file belongs to. None makes all
            directories.
        directory: A directory of files is published; what is at the path is removed just before.

    Yields:
        The path to write to; it has the same name.

    Raises:
        RunError: If the disk is full, read-only or not there; nothing is left behind.
    """
    try:
        if path.parent != within:
            path.parent.mkdir(parents=within is None, exist_ok=True)
        with TemporaryDirectory(prefix=".", suffix=PARTIAL, dir=path.parent) as around, _in_use(Path(around)):
            aside = Path(around, path.name)
            if directory:
                aside.mkdir()
            else:
                aside.touch()
            mode = aside.stat().st_mode  # what the umask gives; writers that replace the file choose their own
            yield aside
            aside.chmod(mode)
            for part in [*aside.iterdir(), aside] if directory else [aside]:
                _fsync(part)
            if directory:
                _remove(path)
            aside.replace(path)
        _fsync(path.parent)
    except OSError as error:
        raise RunError(unwritable(path, error)) from error


def unwritable(path: Path, error: OSError) -> str:
    """The one line for a file that cannot be written."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return f"cannot write {path}: {reason}; free some space or choose a writable directory"


def unreadable(path: Path, error: OSError) -> str:
    """The one line for what is there and cannot be read, which says nothing of whether it is sound."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return f"cannot read {path}: {reason}; make it readable, or try again when its disk answers"


def publish_json(path: Path, content: Any, *, within: Path | None = None) -> None:
    """`publish` for a JSON document, indented and ending in a newline."""
    with publish(path, within=within) as aside:
        aside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_partial(run_dir: Path) -> None:
    """Remove what writers that were killed left behind in a run directory, and nothing that one is writing now.

    Args:
        run_dir: The run directory.

    Raises:
        RunError: If something cannot be removed.
    """
    try:
        for directory in (run_dir, *filter(_is_own_directory, run_dir.iterdir())):
            for leftover in filter(_is_own_directory, directory.glob(f".*{PARTIAL}")):
                with suppress(Timeout, FileNotFoundError), _in_use(leftover) as is_known:
                    if is_known:
                        shutil.rmtree(leftover)
    except OSError as error:
        raise RunError(unwritable(run_dir, error)) from error


def confined(run_dir: Path, path: Path) -> Path:
    """The path, if it lies inside the run directory when links are followed.

    Args:
        run_dir: The run directory, which may itself be reached by a link.
        path: A path in it.

    Returns:
        The path as it is.

    Raises:
        RunError: If a link leads out of the run directory.
    """
    try:
        inside = path.resolve().is_relative_to(run_dir.resolve())
    except (OSError, RuntimeError):  # a circle of links
        inside = False
    if not inside:
        raise RunError(f"{path} is a link that leads out of {run_dir}; put what it points to in its place")
    return path


@contextmanager
def _in_use(aside: Path) -> Iterator[bool]:
    """Hold the lock of a directory in which a file is written aside; it dies with the process."""
    lock = FileLock(aside / ".lock", timeout=0, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except OSError as error:
        if isinstance(error, Timeout) or error.errno not in NO_LOCKS:
            raise
    try:
        yield lock.is_locked
    finally:
        lock.release()


def _remove(path: Path) -> None:
    if _is_own_directory(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_own_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
