"""Which columns of a table are what a task needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from subspace_lab.training.tasks.reading import Table

Names = Mapping[str, Sequence[str]]


def find_columns(
    table: Table, asked: Mapping[str, str], needed: Names, optional: Names | None = None
) -> dict[str, str]:
    """The column for each role.

    Args:
        table: Rows as they stand.
        asked: Role to column, as the user says.
        needed: Role to the usual names of its column, the likelier ones first.
        optional: Likewise, for roles that may be missing.

    Returns:
        Role to column; an optional role without one is left out.

    Raises:
        ValueError: If a column is missing; names those that were found and those that were expected.
    """
    there, found = table.columns, {}
    for role, names in {**needed, **(optional or {})}.items():
        wanted = [asked[role]] if role in asked else names
        column = next((name for name in wanted if name in there), None)
        if column is not None:
            found[role] = column
        elif role in asked or role in needed:
            example = ",".join(f"{name}=NAME" for name in needed)
            raise ValueError(
                f"{table.where} has no column {' or '.join(map(repr, wanted))} (found: {', '.join(map(str, there))}); "
                f"say which columns are meant: --columns {example}"
            )
    return found


def texts_of(table: Table, column: str) -> list[str]:
    """The texts of a column; numbers and booleans become texts.

    Args:
        table: Rows as they stand.
        column: One of its columns.

    Returns:
        A text per row, without white space around it.

    Raises:
        ValueError: If a value is missing, empty or neither a text nor a number; names the row.
    """
    return [_text(table, number, column, row.get(column)) for number, row in enumerate(table.rows, 1)]


def _text(table: Table, number: int, column: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float) or (isinstance(value, float) and not math.isfinite(value)):
        what = "no value" if value is None else f"a {type(value).__name__}, not a text,"
        raise ValueError(f"{table.where} row {number} has {what} in column {column!r}; mend it or leave it out")
    if not (text := str(value).strip()):
        raise ValueError(f"{table.where} row {number} is empty in column {column!r}; mend it or leave it out")
    return text
