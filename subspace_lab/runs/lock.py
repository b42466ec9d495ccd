"""One writer at a time."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from weakref import WeakValueDictionary

from filelock import FileLock, Timeout

from subspace_lab.runs.errors import RunError
from subspace_lab.runs.files import NO_LOCKS, unwritable

_LOCK = ".lock"
_PATIENCE_S = 0.1  # another one may be giving it up just now


class Hold:
    """The right to write into a directory, from `lock`.

    Attributes:
        directory: Device and inode of the directory.
        file: The lock; it is not held where the file system has none, nor in what the process forks.
        inode: Of the lock's file.
    """

    def __init__(self, directory: tuple[int, int], file: FileLock) -> None:
        self.directory, self.file = directory, file
        self.inode = _inode(Path(file.lock_file))

    @property
    def is_held(self) -> bool:
        """Whether it was neither given up nor taken over by a later writer of this process."""
        return _holds.get(self.directory) is self


_holds: WeakValueDictionary[tuple[int, int], Hold] = WeakValueDictionary()  # of this process


def lock(run_dir: Path, *, take_over: bool = True) -> Hold:
    """Keep other processes from writing into a directory, until `unlock` or the end of this one however it comes about.

    What the process forks does not hold the lock on. Where the file system has no locks there is none.

    Args:
        run_dir: The directory; created when missing.
        take_over: Take the right from an earlier holder of this same process, as when a notebook's cell is run again;
            otherwise that is refused, too.

    Returns:
        What holds the lock.

    Raises:
        RunError: If somebody else is writing there, or the directory cannot be written.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        path, status = run_dir.absolute() / _LOCK, run_dir.stat()
        directory = status.st_dev, status.st_ino
        earlier = _holds.get(directory)
        if earlier is None or not earlier.file.is_locked or earlier.inode != _inode(path):
            file = FileLock(path, timeout=_PATIENCE_S, poll_interval=0.02, thread_local=False, fallback_to_soft=False)
            _acquire(file)
        elif take_over:
            file = earlier.file
        else:
            raise RunError(f"{run_dir} is being written by this process already; wait for it, or close it first")
        hold = Hold(directory, file)
    except Timeout as error:
        raise RunError(f"{run_dir} is being written by another process; wait for it, or stop it first") from error
    except OSError as error:
        raise RunError(unwritable(run_dir, error)) from error
    _holds[directory] = hold
    return hold


def unlock(hold: Hold) -> None:
    """Let others write; calling it again, or after the right was taken over, does nothing.

    Args:
        hold: From `lock`.
    """
    if not hold.is_held:
        return
    del _holds[hold.directory]
    if hold.file.is_locked:
        path = Path(hold.file.lock_file)
        if _inode(path) == hold.inode:  # not that of a directory that has taken the place of this one
            with suppress(OSError):
                path.unlink()  # before it is released: whoever then gets the lock of a file without a name tries again
        hold.file.release()


def _acquire(file: FileLock) -> None:
    try:
        file.acquire()
    except Timeout:
        raise
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
