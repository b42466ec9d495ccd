"""Tidy tables grown row by row in compact columns, joined one column at a time.

A column is one array that doubles when it is full. Many small blocks, joined in the end, would lie scattered among the
work arrays of the decompositions, and the allocator could not give back the memory between them: hundreds of megabytes
for a table of ten.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

DTYPES: dict[str, type[np.generic]] = {
    "step": np.int32,
    "basis_step": np.int32,
    "reference_step": np.int32,
    "lag_steps": np.int32,
    "rank": np.int32,
    "numerical_rank": np.int32,
    "m": np.int32,
    "n": np.int32,
    "depth": np.int16,
    "index": np.int16,
}
_FIRST_ROWS = 1024
NAMES = ("layer", "reference_layer", "kind", "basis", "comparison", "side")


def dtype_of(name: str) -> type[np.generic]:
    """The dtype of a column of numbers."""
    return DTYPES.get(name, np.float32)


class Columns:
    """The growing columns of one table; every column is float32 but for the names and the integers of `DTYPES`.

    Args:
        names: The columns, in their order.
        categories: For each column of names, all values it may take, in their order.
    """

    def __init__(self, names: Sequence[str], categories: Mapping[str, Sequence[str]]) -> None:
        self._codes = {name: {value: code for code, value in enumerate(categories[name])}
                       for name in names if name in NAMES}  # fmt: skip
        self._num_rows = 0
        self.arrays: dict[str, np.ndarray] = {name: np.empty(0, self._dtype(name)) for name in names}

    def add(self, num_rows: int, **values: Any) -> None:
        """Add rows; a scalar stands for all of them.

        Args:
            num_rows: How many.
            **values: One value or array per column.
        """
        end = self._num_rows + num_rows
        for name, array in self.arrays.items():
            if end > len(array):
                self.arrays[name] = array = _grown(array, max(2 * end, _FIRST_ROWS))
            value = values[name]
            array[self._num_rows : end] = self._codes[name][value] if name in self._codes else value
        self._num_rows = end

    def join(self) -> None:
        """Cut the columns to their length, so that what is held is the table and nothing else."""
        for name, array in self.arrays.items():
            self.arrays[name] = array[: self._num_rows]

    def _dtype(self, name: str) -> type[np.generic]:
        if name not in self._codes:
            return dtype_of(name)
        return np.int8 if len(self._codes[name]) < 128 else np.int16


def _grown(array: np.ndarray, num_rows: int) -> np.ndarray:
    """The array with room for more rows, in pages of its own."""
    # Pages that were never written to take no memory, and all of them go back to the system with the array; freed parts
    # of the heap would stay, and memory would grow by more than the tables.
    grown = np.frombuffer(mmap.mmap(-1, num_rows * array.itemsize), array.dtype)
    grown[: len(array)] = array
    return grown


def to_table(parts: Iterable[Columns], categories: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """One table out of the columns of all groups; the columns are taken from the parts as they are joined.

    Args:
        parts: Columns of the same table.
        categories: For each column of names, all values it may take.

    Returns:
        The table.
    """
    import pandas as pd

    parts = list(parts)
    joined: dict[str, Any] = {}
    for name in list(parts[0].arrays):
        column = np.concatenate([part.arrays.pop(name) for part in parts])
        joined[name] = pd.Categorical.from_codes(column, pd.Index(categories[name])) if name in NAMES else column
    return pd.DataFrame(joined, copy=False)
