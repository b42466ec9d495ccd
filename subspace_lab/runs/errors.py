"""The error of everything that is not a sound run."""

from __future__ import annotations

import shlex
from pathlib import Path


class RunError(Exception):
    r"""One line for the user: what is wrong, where, and what to do about it.

    Paths and layer names in the message may hold anything, so that whatever would break the line or steer a terminal
    is escaped.

    Args:
        message: The line.

    >>> RunError("no layer 'a\nb'")
    RunError("no layer 'a\\nb'")
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(map(_printable, message)))


class RunLostError(RunError):
    """A run directory that was removed, moved or replaced while it was being written.

    Nothing more can be written to it by the writer that meets this; what was computed is not touched.
    """


def in_shell(path: str | Path) -> str:
    """A path as it is typed in a shell, for messages that name a command.

    Args:
        path: The path.

    Returns:
        The path, quoted where it must be.

    >>> in_shell("runs/my run")
    "'runs/my run'"
    """
    return shlex.quote(str(path))


def _printable(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()
