"""``metrics.jsonl``: one JSON line per step; a torn last line is tolerated.

Numbers that are not finite are written as ``NaN`` and ``Infinity``, which Python and pandas read.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from subspace_lab._checks import is_whole
from subspace_lab._reading import read_bytes
from subspace_lab.runs.errors import RunError
from subspace_lab.runs.files import publish, unwritable
from subspace_lab.runs.snapshot import NUM_STEPS

_MOST_BYTES = 1 << 32  # ten million steps
_LARGEST = 2**53  # of the whole numbers that every reader holds exactly


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All lines of a metrics file, without a torn last one.

    Args:
        path: The file; one that is missing has no lines.

    Returns:
        One dictionary per line.

    Raises:
        RunError: If a line other than the last is not a JSON object with a step, or the file cannot be read.
    """
    try:
        lines = read_bytes(path, most=_MOST_BYTES).split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        if path.exists() and not path.is_file():
            raise RunError(f"{path} is not a file; remove it") from error
        raise RunError(f"{path} cannot be read ({error.strerror or error}); make it readable") from error
    return [_row(path, number, line) for number, line in enumerate(lines[:-1], start=1)]  # the rest is empty or torn


def read_numbers(path: Path, names: Collection[str], *, whole: Collection[str] = ()) -> list[dict[str, Any]]:
    """All lines of a metrics file whose values of some names are computed with or drawn.

    Args:
        path: The file; one that is missing has no lines.
        names: Names whose values must be numbers, where a line has them; they may be NaN, infinite or null.
        whole: Those that must be whole numbers.

    Returns:
        One dictionary per line, with everything that is in it.

    Raises:
        RunError: As `read_metrics`, or if a value is something else; the message names file, step and name.
    """
    rows = read_metrics(path)
    for row in rows:
        for name in names:
            check_number(path, row, name, whole=name in whole)
    return rows


def check_number(path: Path, row: Mapping[str, Any], name: str, *, whole: bool = False) -> None:
    """Check that a line has a number of some name, null, or nothing of it.

    Args:
        path: The file, for the message.
        row: The line.
        name: Of the value.
        whole: Whether it must be a whole number.

    Raises:
        RunError: If it has something else.
    """
    value = row.get(name)
    is_sound_float = isinstance(value, float) and not whole
    sound = value is None or is_sound_float or is_whole(value, -_LARGEST + 1, _LARGEST)
    if not sound:
        raise RunError(f"{path}, step {row['step']}: {name} is {str(value)[:50]!r}, not a number; remove the line")


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode())
    except (ValueError, RecursionError):
        row = None
    step = row.get("step") if isinstance(row, dict) else None
    if not is_whole(step, 0, NUM_STEPS):
        raise RunError(f"{path}, line {number} is not a JSON object with a step; repair or remove it")
    assert isinstance(row, dict)
    return row


class MetricsLog:
    """Appends to a metrics file; every line is handed to the operating system at once.

    Args:
        path: The file.
        before: Lines of this step and later ones are cut off (a resumed run writes them again); None keeps all.

    Raises:
        RunError: If the file cannot be written, or a line in the middle of it is broken.
    """

    def __init__(self, path: Path, before: int | None = None) -> None:
        self._path = path
        rows = [row for row in read_metrics(path) if before is None or row["step"] < before]
        with publish(path, within=path.parent) as aside:
            aside.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise RunError(unwritable(path, error)) from error

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one line, all of it or nothing.

        Args:
            row: JSON-ready values, ``step`` among them.

        Raises:
            RunError: If the disk is full.
            ValueError: If a value cannot be written as JSON.
        """
        try:
            line = json.dumps(dict(row)).encode() + b"\n"
        except TypeError as error:
            raise ValueError(f"metrics of step {row.get('step')}: {error}; give plain numbers or strings") from error
        end = self._file.tell()
        try:
            self._write(line)
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(end)
            raise RunError(unwritable(self._path, error)) from error

    def close(self) -> None:
        """Close the file; calling it again does nothing."""
        self._file.close()

    def _write(self, line: bytes) -> None:
        if self._file.write(line) < len(line):  # the last bytes of the disk
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
