"""Paths as people write them: the home directory's short form, and addresses that are not paths."""

from __future__ import annotations

import os
import re
from pathlib import Path

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # Path() makes one slash of two; a drive's name has one letter


def local_path(path: str | os.PathLike[str], *, error: type[Exception] = ValueError) -> Path:
    """A path of this machine: ``~`` is expanded, and what is the address of something elsewhere is refused.

    What begins with ``./`` is meant as it stands: ``./~`` is a directory of that name.

    Args:
        path: A path as the user wrote it.
        error: What is raised for one that cannot be one.

    Returns:
        The path; given to this function again, it stays as it is.

    Raises:
        TypeError: If it is neither a text nor a path.

    >>> local_path("./s3:/bucket").name
    'bucket'
    """
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError(f"a path must be a str or a Path, got {path!r}")
    if not text or "\0" in text:
        raise error(f"{text!r} is not a path; give the path of a file or a directory")
    if _ADDRESS.match(text):
        raise error(
            f"{text!r} is the address of something elsewhere; give a path of this machine "
            f"(./{text.replace('//', '/')} for a directory of that name)"
        )
    try:
        found = Path(text).expanduser() if text.startswith("~") else Path(text)
    except RuntimeError as reason:  # no such user, or no home directory
        raise error(f"{text!r}: {reason}; write ./{text} for something of that name, or the whole path") from reason
    return found.absolute() if str(found).startswith("~") or _ADDRESS.match(str(found)) else found
