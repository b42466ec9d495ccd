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
        super().__init__(printable(message))


class RunLostError(RunError):
    """A run directory that was removed, moved or replaced while it was being written.

    Nothing more can be written to it by the writer that meets this; what was computed is not touched.
    """


def in_shell(path: str | Path) -> str:
    """A path as it is typed in a shell, for messages that name a command.

    Args:
        path: Of a file or a directory.

    Returns:
        The path, quoted where it must be.

    >>> in_shell("runs/my run")
    "'runs/my run'"
    """
    return shlex.quote(str(path))


def printable(text: str, *, keep: str = "") -> str:
    r"""A text with whatever breaks a line, steers a terminal or turns the direction of writing escaped.

    Args:
        text: Anything, for example a name from a file.
        keep: Characters that are left as they are, such as a newline.

    Returns:
        The text.

    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in keep else character.encode("unicode_escape").decode()
        for character in text
    )
