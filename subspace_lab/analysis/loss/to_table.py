"""Rows as the tables of the other analyses: float32, small integers, categorical names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from subspace_lab.analysis.columns import DTYPES

if TYPE_CHECKING:
    import pandas as pd

_DTYPES: dict[str, type[np.generic]] = {
    **DTYPES, "k": np.int16, "parameters": np.int64, "products": np.int32, "converged": np.bool_,
    "sequences": np.int32, "count": np.int32, "micro_batch": np.int32, "batch_size": np.int32,
}  # fmt: skip
_NAMES = ("layer", "kind", "part")


def to_table(rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> pd.DataFrame:
    """A table.

    Args:
        rows: Values by column, the same columns in every row, at least one row.
        about: What holds for the whole table, JSON-ready; it becomes ``attrs``.

    Returns:
        Names as categories in the order of their first row, numbers as small as the other analyses have them.
    """
    import pandas as pd

    columns: dict[str, Any] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if name in _NAMES:
            columns[name] = pd.Categorical(values, categories=list(dict.fromkeys(values)))
        else:
            columns[name] = np.array(values, _DTYPES.get(name, np.float32))
    table = pd.DataFrame(columns)
    table.attrs.update(about)
    return table
