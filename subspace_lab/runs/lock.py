"""One writer at a time."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import IO

from subspace_lab.runs.errors import RunError
from subspace_lab.runs.files import unwritable

_LOCK = ".lock"
_BUSY = {errno.EACCES, errno.EAGAIN}


def lock(run_dir: Path) -> IO[bytes]:
    """Keep other processes from writing a run, until `unlock` or the end of this process however it comes about.

    It is a lock of the process: what it forks does not hold it on, and the process itself may take it again. Where
    the file system has no locks it is none.

    Args:
        run_dir: The run directory; created when missing.

    Returns:
        The file that holds the lock.

    Raises:
        RunError: If another process is writing the run, or the directory cannot be written.
    """
    import fcntl

    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        file = open(run_dir / _LOCK, "ab", opener=_open_no_link)  # noqa: SIM115
    except OSError as error:
        raise RunError(unwritable(run_dir, error)) from error
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            file.close()
            raise RunError(f"{run_dir} is being written by another process; wait for it, or stop it first") from error
    return file


def unlock(file: IO[bytes]) -> None:
    """Let others write; calling it again does nothing.

    Args:
        file: From `lock`.
    """
    if not file.closed:
        with suppress(OSError):
            os.unlink(file.name)
        file.close()


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)
