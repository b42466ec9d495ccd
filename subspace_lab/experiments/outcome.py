"""The outcome of a trial: a small JSON file beside its directory."""

from __future__ import annotations

import dataclasses
import resource
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from subspace_lab._reading import read_json, typed
from subspace_lab.runs.files import publish_json

Status = Literal["complete", "diverged", "failed", "killed", "cut", "pending"]
GOES_ON: tuple[Status, ...] = ("pending", "cut", "killed")  # by the same command; a failed one would fail again
ENDED: tuple[Status, ...] = ("complete", "diverged")  # with a result, which failed and killed ones do not have
_SYSTEM_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Outcome:
    """The outcome of a trial.

    Attributes:
        status: ``complete``; ``diverged`` (no longer finite); ``failed`` (an error, memory included); ``killed`` (by a
            signal, or its job was); ``cut`` (by Ctrl-C); ``pending`` (not begun).
        reason: One line, empty for a complete one.
        attempts: How often it was begun or resumed.
        metrics: Values at its end, by name.
        weights: SHA-256 of the weights that it left for other trials; None where it left no weights.
        parents: Content hash of each parent to the SHA-256 of the weights that it began from.
        state_bytes: Of the optimizer's tensors at the end; None before that.
        peak_bytes: Largest memory of the process, or of the GPU where there is one, over all attempts that measured it.
        base_bytes: Of that, what the process held before it built anything: interpreter and libraries.
    """

    status: Status = "pending"
    reason: str = ""
    attempts: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    weights: str | None = None
    parents: dict[str, str] = field(default_factory=dict)
    state_bytes: int | None = None
    peak_bytes: int | None = None
    base_bytes: int | None = None


def outcome_path(trials_dir: Path, name: str) -> Path:
    """Where the outcome of a trial lies."""
    return trials_dir / f"{name}.json"


def read_outcome(trials_dir: Path, name: str) -> Outcome:
    """The outcome of a trial; that of one not begun if it is broken, or a complete trial's directory was removed."""
    try:
        outcome = typed(Outcome, read_json(outcome_path(trials_dir, name)))
    except (OSError, ValueError):
        return Outcome()
    return Outcome() if outcome.status == "complete" and not (trials_dir / name).is_dir() else outcome


def write_outcome(trials_dir: Path, name: str, outcome: Outcome) -> None:
    """Publish the outcome of a trial."""
    publish_json(outcome_path(trials_dir, name), dataclasses.asdict(outcome))


def peak_memory() -> int:
    """Bytes of memory that this process held at most, as the system has counted them."""
    if _SYSTEM_STATUS.exists():
        for line in _SYSTEM_STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
