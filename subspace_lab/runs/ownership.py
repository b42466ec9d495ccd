"""Whether a run directory is still the one that its writer opened."""

from __future__ import annotations

import os
from pathlib import Path

from subspace_lab._reading import read_json
from subspace_lab.runs.errors import RunError, RunLostError
from subspace_lab.runs.files import unwritable
from subspace_lab.runs.manifest import MANIFEST

_GONE = (FileNotFoundError, NotADirectoryError)


class Ownership:
    """What a writer compares before everything that it publishes; two calls of ``stat`` as long as nothing changes.

    Every run has a random id in its manifest, made once. A directory that was removed, moved or replaced is recognized
    by the id, and where a copy of itself is in its place, by the directory's inode.

    Args:
        run_dir: The run directory, which has a manifest.

    Raises:
        RunLostError: If the directory is not there.
        RunError: If it cannot be looked at.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir.absolute()  # whatever the process's directory becomes
        self._directory = self._stat(self._path)
        self._manifest = self._signature()
        self._run_id = self._read()

    def check(self) -> None:
        """Refuse to write into what is not the writer's own any more.

        Raises:
            RunLostError: If the directory was removed, moved or replaced.
            RunError: If it cannot be looked at.
        """
        if not os.path.samestat(self._directory, self._stat(self._path)):
            raise self._lost("was replaced by another directory")
        if (signature := self._signature()) != self._manifest:
            if self._read() != self._run_id:
                raise self._lost("was replaced by another run")
            self._manifest = signature

    def _signature(self) -> tuple[int, ...]:
        now = self._stat(self._path / MANIFEST)
        return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns

    def _stat(self, path: Path) -> os.stat_result:
        try:
            return path.stat()
        except _GONE as error:
            raise self._lost("was removed or moved") from error
        except OSError as error:
            raise RunError(unwritable(path, error)) from error

    def _read(self) -> object:
        path = self._path / MANIFEST
        try:
            manifest = read_json(path)
        except _GONE as error:
            raise self._lost("was removed or moved") from error
        except OSError as error:
            raise RunError(unwritable(path, error)) from error
        except ValueError:
            manifest = None
        return manifest.get("run_id") if isinstance(manifest, dict) else None

    def _lost(self, what: str) -> RunLostError:
        return RunLostError(
            f"{self._path} {what} while it was being written; nothing more is written there: "
            "begin again in a directory of its own"
        )
