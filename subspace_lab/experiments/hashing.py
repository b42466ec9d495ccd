"""Content hashes: the same content has the same hash on every machine."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from subspace_lab.runs.files import file_hash

FORMAT_VERSION = 2  # part of every hash: a release that trains otherwise by the same configuration counts it up


def canonical_json(content: Any) -> str:
    """The one JSON text of a content: keys sorted, no spaces, whole floats as such, tuples as lists.

    Returns:
        ASCII text; ValueError for values that are not plain and finite.

    >>> canonical_json({"b": (1, 2.0), "a": None})
    '{"a":null,"b":[1,2.0]}'
    """
    return json.dumps(_plain(content), sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def content_hash(content: Any) -> str:
    """SHA-256 of the canonical JSON, 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def source_hash(module: str) -> str:
    """SHA-256 of the source of a module, or of all modules of a package; ValueError where there is no such source."""
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        raise ValueError(f"the plug-in {module!r} cannot be found ({error}); give a module on the path") from error
    if found is None or not (found.origin or found.submodule_search_locations):
        raise ValueError(f"the plug-in {module!r} cannot be found; give the name of a module on the path")
    folders = [Path(place) for place in found.submodule_search_locations or ()]
    files = sorted(file for folder in folders for file in folder.rglob("*.py")) or [Path(found.origin or "")]
    if files[0].suffix != ".py":
        raise ValueError(f"the plug-in {module!r} has no Python source; give a module that has")
    root = folders[0] if folders else files[0].parent
    return content_hash({file.relative_to(root).as_posix(): file_hash(file) for file in files})


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError(f"a content to hash has texts for keys, got {list(value)!r}")
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise ValueError(f"a content to hash is made of plain finite values, got {value!r}")
