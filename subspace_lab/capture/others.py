"""Captures of this process that are still open: what a notebook's cell leaves behind when it is run again."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

from subspace_lab.runs.manifest import MANIFEST


class OpenCapture(Protocol):
    """What is asked of the captures that are known here."""

    @property
    def path(self) -> Path:
        """The run directory."""

    @property
    def is_open(self) -> bool:
        """Whether it goes on recording."""

    @property
    def has_begun(self) -> bool:
        """Whether a step was recorded."""

    def supersede(self, reason: str) -> None:
        """End because another capture takes this one's place."""

    def say_unseen(self) -> None:
        """Warn if its optimizers were never seen to step."""


_Capture = TypeVar("_Capture", bound=OpenCapture)
_known: WeakSet[Any] = WeakSet()  # of OpenCapture


def supersede(capture: _Capture, stands_in_the_way: Callable[[_Capture], bool], reason: str) -> None:
    """End the open captures whose place another one takes.

    Args:
        capture: The other one, which is known from now on.
        stands_in_the_way: Whether a capture has to end.
        reason: Why, for the warning.
    """
    for other in [other for other in _known if other is not capture and other.is_open]:
        if stands_in_the_way(other):
            other.supersede(reason)
    _known.add(capture)


def remove_empty(path: Path) -> None:
    """Make room for a run where an open capture of this process has begun one and recorded nothing.

    Args:
        path: The run directory.
    """
    if any(other.is_open and other.path == path and not other.has_begun for other in list(_known)):
        with suppress(OSError):
            if {entry.name for entry in path.iterdir()} <= {MANIFEST, ".lock"}:
                (path / MANIFEST).unlink()


@atexit.register
def _say_unseen() -> None:
    for capture in [capture for capture in _known if capture.is_open]:
        capture.say_unseen()
