"""The layer table of a manifest, and what it says about the tensors of a snapshot."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from subspace_lab._checks import is_whole
from subspace_lab.numerics import packed_shape

LAYER_COLUMNS = ("name", "depth", "kind", "rows", "cols", "side", "shape", "residual_side")
_KEEP = re.compile(r"full|gram|stats|topk:[1-9][0-9]{0,8}")
_SIDES = ("left", "right")


def broken_capture(capture: Any) -> str | None:
    """What is wrong with capture settings, or None."""
    if not isinstance(capture, dict) or not isinstance(capture.get("keep"), str):
        return "has no capture settings"
    if not _KEEP.fullmatch(capture["keep"]):
        return f"has an unknown reduction keep={capture['keep'][:50]!r}"
    every = capture.get("every")
    if not (every is None or _is_positive(every)):
        return "has a broken capture interval"
    return None


def broken_layers(layers: Any) -> str | None:
    """What is wrong with a layer table, or None."""
    if not isinstance(layers, list):
        return "has no layer table"
    for number, row in enumerate(layers):
        if not _is_sound(row):
            return f"has a broken layer table (row {number})"
    if len({row["name"] for row in layers}) < len(layers):
        return "has a layer twice in its layer table"
    return None


def expected_shape(row: Mapping[str, Any], part: str, shape: Sequence[int]) -> tuple[int, ...] | None:
    """The shape that a part of a layer has in a snapshot.

    Args:
        row: The layer's row of the layer table.
        part: ``gradient``, ``gram_left``, ``gram_right``, ``basis`` or ``singular_values``.
        shape: The shape that it has; a basis may have any number of columns up to its rows.

    Returns:
        The shape that it must have, or None for any other part.
    """
    rows, cols = row["rows"], row["cols"]
    m = rows if row["side"] == "left" else cols
    return {
        "gradient": tuple(row["shape"]),
        "gram_left": packed_shape(rows),
        "gram_right": packed_shape(cols),
        "basis": (m, min(shape[-1], m) if len(shape) == 2 else m),
        "singular_values": (min(rows, cols),),
    }.get(part)


def _is_sound(row: Any) -> bool:
    if not isinstance(row, dict):
        return False
    shape = row.get("shape")
    return (
        isinstance(row.get("name"), str)
        and isinstance(row.get("kind"), str)
        and _is_int(row.get("depth"))
        and row.get("side") in _SIDES
        and row.get("residual_side") in (*_SIDES, None)
        and isinstance(shape, list)
        and len(shape) >= 2
        and all(map(_is_positive, shape))
        and _is_int(row.get("rows"))
        and _is_int(row.get("cols"))
        and (row["rows"], row["cols"]) == (shape[0], math.prod(shape[1:]))
    )


def _is_int(value: Any) -> bool:
    return is_whole(value, -(2**63) + 1, 2**63)


def _is_positive(value: Any) -> bool:
    return _is_int(value) and value > 0
