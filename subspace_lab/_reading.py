"""Reading files that may be anything: regular ones of a sane size only, and JSON whose fields have their types."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import stat
import types
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

DOCUMENT_BYTES = 1 << 28  # a manifest of a million layers has less
_KINDS = {
    stat.S_IFDIR: "a directory", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip
_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null",
          list: "a list", dict: "an object"}  # fmt: skip
_T = TypeVar("_T")


class NotRegularError(OSError):
    """What is there is a directory, a pipe, a socket or a device."""


def open_regular(path: Path) -> int:
    """Open a regular file for reading; nothing else is waited for.

    Args:
        path: The file.

    Returns:
        The descriptor.

    Raises:
        NotRegularError: If it is something else.
        OSError: If it is missing or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise NotRegularError("it is a socket or a device and not a file") from error
        raise
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise NotRegularError(f"it is {_KINDS.get(stat.S_IFMT(mode), 'something else')} and not a file")
    return descriptor


def read_bytes(path: Path, *, most: int = DOCUMENT_BYTES) -> bytes:
    """The content of a regular file; nothing else is waited for or read without end.

    Args:
        path: The file.
        most: Bytes that it may have.

    Returns:
        The bytes.

    Raises:
        OSError: If it is missing, cannot be read, is something else than a regular file, or larger.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        if (size := os.fstat(file.fileno()).st_size) > most:
            raise OSError(f"it has {size} bytes, more than the {most} that are read")
        return file.read()


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Args:
        path: The file.

    Returns:
        What JSON makes of it.

    Raises:
        OSError: As `read_bytes` does.
        ValueError: If it is not JSON.
    """
    try:
        return json.loads(read_bytes(path).decode("utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def typed(kind: type[_T], values: Any) -> _T:
    """A dataclass from what JSON held, every field of its declared type.

    Fields may be ``int``, ``float`` (finite), ``str``, ``bool``, ``list``, ``dict`` (also with the types of keys and
    values), None, literals and their unions.

    Args:
        kind: The dataclass.
        values: A dictionary by field.

    Returns:
        An instance.

    Raises:
        ValueError: If a field is missing, unknown or of another type; the message names it.
    """
    if not isinstance(values, dict):
        raise ValueError(f"needs fields by name, got {_short(values)}")
    assert dataclasses.is_dataclass(kind)
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := sorted(map(str, values.keys() - fields.keys())):
        raise ValueError(f"has {unknown[0]!r}, which is not a field")
    for name, field in fields.items():
        if name not in values:
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise ValueError(f"has no {name!r}")
        elif not _fits(values[name], hints[name]):
            raise ValueError(f"has {name!r} {_short(values[name])}, which must be {_said(hints[name])}")
    made: _T = kind(**values)
    return made


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if isinstance(hint, types.UnionType):
        return any(_fits(value, each) for each in get_args(hint))
    if get_origin(hint) is dict:
        kind, inner = get_args(hint)
        return isinstance(value, dict) and all(_fits(key, kind) and _fits(each, inner) for key, each in value.items())
    if isinstance(value, bool):
        return hint is bool
    if hint is int:
        return isinstance(value, int) and abs(value) < 2**63
    if hint is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, hint)


def _said(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if isinstance(hint, types.UnionType):
        return " or ".join(map(_said, get_args(hint)))
    return _WORDS[get_origin(hint) or hint]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 50 else f"{text[:47]}..."
