"""The error of everything that is not a sound run."""

from __future__ import annotations


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


def _printable(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()
