"""Which side of a parameter is projected, and what its matrices are: questions of shapes alone.

Legend: oriented matrix ``(m, n)``, ``m <= n`` unless a side is asked for.
"""

from __future__ import annotations

import math

ALONG_ROWS = frozenset({"dct", "trig", "trig_walk"})  # rules whose transforms are fastest along a parameter's rows


def is_right(rows: int, cols: int, side: str) -> bool:
    """Whether a matrix is projected from the right: asked for, or more rows than columns."""
    return side == "right" if side in {"left", "right"} else rows > cols


def oriented_shape(shape: tuple[int, ...], side: str, splits: int = 1) -> tuple[int, int]:
    """(m, n) of each of the matrices that a parameter of this shape is made of.

    Args:
        shape: The parameter's, of at least two dimensions; those after the first are multiplied.
        side: ``"auto"``, ``"left"`` or ``"right"``; the side of a distributed parameter is known by `side_of`.
        splits: How many matrices are stacked along the first dimension; see `is_stack`.

    Returns:
        m and n.
    """
    rows, cols = num_rows(shape, splits) // splits, math.prod(shape[2:] if is_stack(shape, splits) else shape[1:])
    return (cols, rows) if is_right(rows, cols, side) else (rows, cols)


def side_for_rule(side: str, rule: str | None, shape: tuple[int, ...], splits: int = 1) -> str:
    """The side for a rule: square matrices are projected from the left, and from the right by rules that transform.

    These work along the rows of a parameter, which are contiguous in memory.

    Args:
        side: ``"auto"``, ``"left"`` or ``"right"``; only ``"auto"`` leaves a choice.
        rule: Its name, None where there is none.
        shape: The parameter's.
        splits: As in `oriented_shape`.

    Returns:
        The side.
    """
    if side != "auto" or rule not in ALONG_ROWS:
        return side
    m, n = oriented_shape(shape, side, splits)
    return "right" if m == n else side


def is_stack(shape: tuple[int, ...], splits: int) -> bool:
    """Whether a parameter is a batch of matrices, as experts are: (E, rows, cols) and E splits or a multiple."""
    return len(shape) == 3 and splits > 1 and shape[0] > 1 and splits % shape[0] == 0


def num_rows(shape: tuple[int, ...], splits: int) -> int:
    """Rows of all matrices of a parameter together, which `splits` has to divide."""
    return shape[0] * shape[1] if is_stack(shape, splits) else shape[0]
