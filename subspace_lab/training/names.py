"""Messages about names that are not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The one line for a name that is not in a table, with the nearest that is.

    Args:
        what: What the name stands for, ``"preset"`` for example.
        name: The name as given.
        known: The names that exist, at least one.

    Returns:
        The message.

    >>> unknown("preset", "llama-60", ["llama-2m", "llama-60m"])
    "there is no preset 'llama-60'; nearest: llama-60m (known: llama-2m, llama-60m)"
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
    return f"there is no {what} {name!r}; nearest: {near[0]} (known: {', '.join(names)})"
