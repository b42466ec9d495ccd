"""Tables on disk: parquet files with a checksum in them, and columns of the kinds that are declared.

The checksum is in the metadata that pandas writes: SHA-256 over the whole file with zeros in its place. Files without
one, of earlier releases or of others, are read as they are.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subspace_lab._reading import read_bytes
from subspace_lab.runs.errors import RunError
from subspace_lab.runs.files import publish

if TYPE_CHECKING:
    import pandas as pd

_KEY = "subspace_lab_sha256"
_ZEROS = "0" * 64
_RECORDED = re.compile(rb'"' + _KEY.encode() + rb'": "([0-9a-f]{64})"')
_MOST_BYTES = 1 << 36
_BYTES_A_VALUE = 4
_PLACE = {"step": "int", "layer": "str", "depth": "int", "kind": "str"}
_BASIS = {"basis_step": "int", "lag_steps": "int", "rank": "int"}
# What the analyses leave in a run and its readers need, by table: texts, whole numbers, numbers and truth values.
TABLES: dict[str, Mapping[str, str]] = {
    "energy": {**_PLACE, **_BASIS, "basis": "str", "m": "int", "n": "int", "ratio": "float", "fraction": "float",
               "null_isotropic": "float", "null_noise": "float"},
    "spectrum": {**_PLACE, "index": "int", "singular_value": "float"},
    "spectrum_summary": {**_PLACE, "m": "int", "n": "int", "frobenius_norm": "float", "stable_rank": "float",
                         "effective_rank": "float", "participation_ratio": "float", "nuclear_rank": "float"},
    "spectrum_null": {"m": "int", "n": "int", "index": "int", "singular_value": "float"},
    "angles": {**_PLACE, "reference_step": "int", "reference_layer": "str", "comparison": "str", "side": "str",
               "rank": "int", "mean_deg": "float", "max_deg": "float", "overlap": "float", "chordal": "float",
               "null_overlap": "float"},
    "curvature": {**_PLACE, **_BASIS, "index": "int", "singular_value": "float", "normalized": "float",
                  "null_noise": "float"},
    "hessian": {**_PLACE, "index": "int", "eigenvalue": "float", "residual": "float", "converged": "bool"},
    "hessian_summary": {**_PLACE, "k": "int", "trace": "float", "trace_se": "float", "chi": "float",
                        "null_chi": "float", "rayleigh_core": "float", "rayleigh_bulk": "float",
                        "overlap": "float", "null_overlap": "float", "sequences": "int"},
    "noise": {**_PLACE, "part": "str", "signal_share": "float", "signal_share_se": "float", "noise_scale": "float",
              "noise_scale_se": "float", "batch_size": "int"},
}  # fmt: skip
_KINDS = {"str": "names", "int": "whole numbers", "float": "numbers", "bool": "true or false"}


def write_table(path: Path, table: pd.DataFrame, *, within: Path | None = None) -> None:
    """Publish a table with its checksum.

    Args:
        path: The file.
        table: A tidy table.
        within: As `publish` has it.

    Raises:
        RunError: If it cannot be written.
    """
    marked = table.copy(deep=False)
    marked.attrs = {**table.attrs, _KEY: _ZEROS}
    with publish(path, within=within) as aside:
        marked.to_parquet(aside, index=False)
        content = aside.read_bytes()
        digest = hashlib.sha256(content).hexdigest().encode()
        with aside.open("r+b") as file:
            for place in _RECORDED.finditer(content):
                file.seek(place.start(1))
                file.write(digest)


def read_table(path: Path, advice: str, columns: Mapping[str, str] | None = None) -> pd.DataFrame:
    """A table, checked against its checksum and its declared columns.

    Args:
        path: The file.
        advice: What to do about one that cannot be read, for the message.
        columns: The kind of each column that it must have: ``str``, ``int``, ``Int`` (values may be missing),
            ``float`` or ``bool``, or a dtype or ``category`` that says as much.

    Returns:
        The table.

    Raises:
        RunError: If it cannot be read, was altered, or has another schema; the message names file and column.
    """
    import pandas as pd
    import pyarrow.parquet as pq

    try:
        content = read_bytes(path, most=_MOST_BYTES)
        if (broken := _altered(content) or _too_large(pq.ParquetFile(io.BytesIO(content)).metadata)) is None:
            table = pd.read_parquet(io.BytesIO(content))
    except Exception as error:  # whatever pandas and pyarrow have to say of it: it can be made again
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise RunError(f"{path} cannot be read ({reason}); {advice}") from error
    if broken is not None:
        raise RunError(f"{path} cannot be read (it {broken}); {advice}")
    table.attrs.pop(_KEY, None)
    if columns is not None and (wrong := _wrong(table, columns)) is not None:
        raise RunError(f"{path} {wrong}; {advice}")
    return table


def _altered(content: bytes) -> str | None:
    recorded = _RECORDED.search(content)
    if recorded is None or recorded[1] == _ZEROS.encode():  # read and written again by pandas, which keeps the mark
        return None
    zeroed = _RECORDED.sub(lambda found: found[0].replace(found[1], _ZEROS.encode()), content)
    found, expected = hashlib.sha256(zeroed).hexdigest(), recorded[1].decode()
    return None if found == expected else f"was altered: checksum {found[:12]}, expected {expected[:12]}"


def _too_large(about: Any) -> str | None:
    if about.num_rows * max(1, about.num_columns) * _BYTES_A_VALUE <= _memory():
        return None
    return f"says it has {about.num_rows} rows, more than this machine's memory holds"


def _wrong(table: pd.DataFrame, columns: Mapping[str, str]) -> str | None:
    """What distinguishes a table from its declared columns, or None."""
    if table.columns.duplicated().any():
        return "has a column twice"
    for name, dtype in columns.items():
        if name not in table.columns:
            return f"has no column {name!r}"
        if not _is_of(table[name], dtype):
            kind = _KINDS["str" if dtype == "category" else re.sub(r"[0-9]+$", "", dtype).lower()]
            return f"has something else than {kind} in column {name!r}"
    return None


def _is_of(values: pd.Series[Any], dtype: str) -> bool:
    from pandas.api import types

    if values.empty:
        return True
    missing = bool(values.isna().any()) if dtype[:3] in {"str", "cat", "int", "boo"} else False
    if missing:
        return False
    if dtype in {"str", "category"}:
        each: Iterable[Any] = values.cat.categories if isinstance(values.dtype, _categorical()) else values
        return all(isinstance(value, str) for value in each)
    if dtype == "bool":
        return bool(types.is_bool_dtype(values))
    if dtype[:3].lower() == "int":
        return bool(types.is_integer_dtype(values)) or (dtype[0] == "I" and bool(values.isna().all()))
    numbers = types.is_numeric_dtype(values) and not types.is_bool_dtype(values) and not types.is_complex_dtype(values)
    return bool(numbers)


def _categorical() -> type:
    import pandas as pd

    return pd.CategoricalDtype


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
