"""``OUT_DIR``: which profile it belongs to, and the tables in it.

What is needed to go on elsewhere is in the tables: a row per cell that came to its end, its curves, and what was
measured in captured runs. The run directories themselves lie in ``work`` and may be removed at any time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from subspace_lab._reading import read_json
from subspace_lab._version import __version__
from subspace_lab.runs import RunError, environment
from subspace_lab.runs.files import publish_json, unwritable
from subspace_lab.runs.tables import read_table, write_table
from subspace_lab.studies.grass_paper.profiles import Profile

MANIFEST = "evidence.json"
FORMAT = "subspace_lab.evidence"
FORMAT_VERSION = 1
WORK, TABLES = "work", "tables"
CELLS, CURVES = "cells", "curves"


class Store:
    """The tables of ``OUT_DIR``.

    Args:
        path: ``OUT_DIR``; it is made where there is none.
        profile: What it is to hold.
        columns: The columns of its tables by the names of the tables; a table is only read if it has them, and one
            that is not named here may have any.

    Raises:
        RunError: If something else is there, or the experiments of other settings.
    """

    def __init__(self, path: Path, profile: Profile, columns: Mapping[str, Mapping[str, str]]) -> None:
        self.path, self.profile, self._columns = path, profile, columns
        self._tables: dict[str, pd.DataFrame] = {}
        wanted = json.loads(json.dumps(profile.settings))
        if (path / MANIFEST).exists():
            _check_same(path, read_manifest(path), wanted)
            return
        _check_free(path)
        publish_json(path / MANIFEST, {
            "format": FORMAT, "format_version": FORMAT_VERSION, "library_version": __version__,
            "environment": environment(), "profile": wanted,
        })  # fmt: skip

    def settle_data(self, data_hash: str) -> None:
        """Note what the trainings read, or refuse to mix them with those that read something else.

        Args:
            data_hash: Of the tokens.

        Raises:
            RunError: If the tables rest on other data.
        """
        manifest = read_manifest(self.path)
        before = manifest.setdefault("data_hash", data_hash)
        if before != data_hash:
            raise RunError(
                f"{self.path} rests on other data (hash {str(before)[:12]}, here {data_hash[:12]}; the standard "
                "library differs between versions of Python); go on where they are the same, or choose another "
                "directory"
            )
        publish_json(self.path / MANIFEST, manifest)

    @property
    def cells_dir(self) -> Path:
        """The run directories of the cells."""
        return self.path / WORK / "cells"

    def has(self, name: str) -> bool:
        """Whether there is a table of that name."""
        return self._file(name).is_file()

    def read(self, name: str) -> pd.DataFrame:
        """A table, not to be changed; an empty one where there is none.

        Args:
            name: The table.

        Returns:
            The table.

        Raises:
            RunError: If it cannot be read, was altered, or has other columns than such a table.
        """
        if not self.has(name):
            return pd.DataFrame()
        if name not in self._tables:
            columns = self._columns.get(name)
            self._tables[name] = read_table(self._file(name), "remove it, and it is made again", columns)
        return self._tables[name]

    def write(self, name: str, table: pd.DataFrame) -> None:
        """Publish a table."""
        self._tables.pop(name, None)
        write_table(self._file(name), table)

    def add(self, name: str, rows: pd.DataFrame) -> None:
        """Publish a table with rows added; rows of the same cells are replaced.

        Args:
            name: The table, with a column ``cell``.
            rows: The rows.
        """
        before = self.read(name)
        if not before.empty:
            kept = before[~before["cell"].isin(set(rows["cell"]))]
            rows = pd.concat([kept, rows], ignore_index=True) if len(kept) else rows
        self.write(name, rows)

    def remove(self, name: str) -> None:
        """Remove a table, so that it is made again."""
        self._file(name).unlink(missing_ok=True)

    def forget(self, methods: Iterable[str]) -> None:
        """Remove the rows of all cells of some methods, from every table that has cells."""
        gone = set(methods)
        for file in sorted((self.path / TABLES).glob("*.parquet")):
            table = self.read(file.stem)
            if {"cell", "method"} <= set(table.columns) and table["method"].isin(gone).any():
                self.write(file.stem, table[~table["method"].isin(gone)])

    def _file(self, name: str) -> Path:
        return self.path / TABLES / f"{name}.parquet"


def read_manifest(path: Path) -> dict[str, Any]:
    """The content of ``evidence.json``.

    Args:
        path: ``OUT_DIR``.

    Returns:
        The manifest.

    Raises:
        RunError: If it cannot be read, or is none.
    """
    file = path / MANIFEST
    try:
        manifest = read_json(file)
    except (ValueError, OSError) as error:
        raise RunError(f"{file} cannot be read ({error}); restore it from a copy") from error
    if (
        not isinstance(manifest, dict)
        or manifest.get("format") != FORMAT
        or not isinstance(manifest.get("profile"), dict)
        or not isinstance(manifest.get("environment"), dict)
    ):
        raise RunError(f"{file} is not the manifest of regenerated figures; choose another directory")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise RunError(f"{file} is of another release of subspace_lab; choose another directory")
    return manifest


def _check_same(path: Path, manifest: dict[str, Any], wanted: dict[str, Any]) -> None:
    before = manifest["profile"]
    different = [
        f"{name} {_short(before.get(name))} -> {_short(wanted.get(name))}"
        for name in dict.fromkeys([*wanted, *before])
        if name != "config" and before.get(name) != wanted.get(name)
    ]
    old, new = before.get("config"), wanted["config"]
    old = old if isinstance(old, dict) else {}
    different += [
        f"{name} {old.get(name)!r} -> {new.get(name)!r}"
        for name in dict.fromkeys([*new, *old])
        if old.get(name) != new.get(name)
    ]
    if different:
        raise RunError(f"{path} holds figures of another profile ({'; '.join(different)}); choose another directory")


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _check_free(path: Path) -> None:
    try:
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is a file; choose another directory")
        if path.is_dir() and any(not entry.name.startswith(".") for entry in path.iterdir()):
            raise RunError(f"{path} is not empty and holds no regenerated figures; choose another directory")
    except OSError as error:
        raise RunError(unwritable(path, error)) from error
