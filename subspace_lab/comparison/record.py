"""What became of a cell: a small JSON file beside its run directory."""

from __future__ import annotations

import dataclasses
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from subspace_lab._reading import read_json, typed
from subspace_lab.runs.files import publish_json

Status = Literal["complete", "diverged", "failed", "killed", "cut", "pending"]
GOES_ON = ("pending", "cut", "killed")  # with the same command; what failed by itself would fail again
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Record:
    """What became of a cell.

    Attributes:
        status: ``complete``; ``diverged`` (no longer finite); ``failed`` (an error, memory included); ``killed`` (by a
            signal, or its job was); ``cut`` (by Ctrl-C); ``pending`` (not begun).
        reason: One line, empty for a complete one.
        attempts: How often it was begun or resumed.
        state_bytes: Of the tensors that the optimizer held in the end, None before that.
        peak_bytes: Largest memory of the process, or of the GPU where there is one, over all attempts that could say.
        base_bytes: Of that, what the process held before it built anything: interpreter and libraries.
    """

    status: Status = "pending"
    reason: str = ""
    attempts: int = 0
    state_bytes: int | None = None
    peak_bytes: int | None = None
    base_bytes: int | None = None


def record_path(cells: Path, name: str) -> Path:
    """Where the record of a cell lies."""
    return cells / f"{name}.json"


def read_record(path: Path) -> Record:
    """The record of a cell; one that is missing or broken is that of a cell that was not begun.

    Args:
        path: From `record_path`.

    Returns:
        The record.
    """
    try:
        return typed(Record, read_json(path))
    except (OSError, ValueError):
        return Record()


def write_record(path: Path, record: Record) -> None:
    """Publish the record of a cell.

    Args:
        path: From `record_path`.
        record: The record.
    """
    publish_json(path, dataclasses.asdict(record))


def peak_memory() -> int:
    """Bytes of memory that this process held at most, as the system has counted them."""
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
