"""Rows of the user's data: csv, tsv, jsonl, json and parquet files, and data sets of the hub."""

from __future__ import annotations

import csv
import glob
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from subspace_lab._extras import require
from subspace_lab._paths import local_path
from subspace_lab._text import first_line
from subspace_lab.training.hub import without_waiting_for_the_hub

_HELD_OUT = (("validation", "valid", "val", "dev", "eval"), ("test",))  # names of a part, the likelier ones first
_KNOWN = {word for group in _HELD_OUT for word in group}


@dataclass(frozen=True)
class Table:
    """Rows as they stand in files or in a part of a data set.

    Attributes:
        where: For messages.
        rows: Values by column.
        names: Of the classes of a column that has numbers of classes.
    """

    where: str
    rows: list[Mapping[str, Any]]
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @cached_property
    def columns(self) -> list[str]:
        """Of all rows, in the order in which they come; a row may lack some."""
        return [*dict.fromkeys(column for row in self.rows for column in row)]


def read_tables(data: str) -> tuple[Table, Table | None]:
    """The rows that a ``data`` setting names.

    Args:
        data: A file, a glob, a directory of files, or ``hf:<dataset>`` (``hf:<dataset>:<subset>``).

    Returns:
        Rows to train on, and those of the part that is called validation, dev, eval or test; None where there is none.

    Raises:
        ValueError: If there is nothing of that name, it cannot be read, or has no rows.
    """
    is_dataset = data.startswith("hf:") and not data.startswith("hf://")
    parts = _dataset(data.removeprefix("hf:")) if is_dataset else _files(data)
    train, held_out = _named_parts([*parts])
    found = _joined(data, parts, train)
    if not found.rows:
        raise ValueError(f"{found.where} has no rows; give a file that has")
    if not held_out:
        return found, None
    other = _joined(data, parts, held_out)
    if not other.rows:
        raise ValueError(f"{other.where} has no rows; give a file that has")
    return found, other


def _named_parts(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of what is trained on and of what is held out, by the words in them."""
    words = {name: _words(name) for name in names}
    train = [name for name in names if not words[name] & _KNOWN]
    if not train:
        return [*names], []
    for group in _HELD_OUT:
        found = [name for name in names if words[name] & {*group} and "mismatched" not in words[name]]
        if found:
            return train, found
    return train, []


def _words(name: str) -> set[str]:
    return {*re.split(r"[^a-z]+", Path(name).stem.lower())}


def _joined(data: str, parts: Mapping[str, Callable[[], Table]], names: Sequence[str]) -> Table:
    tables = [parts[name]() for name in names]
    where = tables[0].where if len(tables) == 1 else f"data={data!r}"
    return Table(where, [row for table in tables for row in table.rows], tables[0].names)


def _files(data: str) -> dict[str, Callable[[], Table]]:
    path = local_path(data)
    if path.is_dir():
        paths = sorted(file for file in path.iterdir() if file.suffix in _READERS)
        if not paths:
            raise ValueError(f"data={data!r} has no file of rows; give {', '.join(_READERS)} files")
    elif glob.has_magic(data) and not path.exists():
        paths = [Path(found) for found in sorted(glob.glob(str(path), recursive=True)) if Path(found).is_file()]
        if not paths:
            raise ValueError(f"data={data!r} matches no file; check the pattern (** crosses directories)")
    else:
        paths = [path]
    for file in paths:
        if not file.is_file():
            raise ValueError(f"data={data!r} does not exist; give a file, a directory, or hf:<dataset>")
        if file.suffix not in _READERS:
            raise ValueError(f"{file} is not a file of rows; give {', '.join(_READERS)}, or hf:<dataset>")
    return {str(file): _reader(file) for file in paths}


def _reader(path: Path) -> Callable[[], Table]:
    def read() -> Table:
        try:
            rows, names = _READERS[path.suffix](path)
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from error
        return Table(str(path), rows, names)

    return read


Read = tuple[list[Mapping[str, Any]], Mapping[str, Sequence[str]]]


def _json_lines(path: Path) -> Read:
    with path.open(encoding="utf-8-sig") as file:
        text = file.read()
    if text.lstrip().startswith("["):
        return [*_objects(path, enumerate(_parsed(path, 1, text), 1), "row")], {}
    lines = ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
    return [*_objects(path, ((number, _parsed(path, number, line)) for number, line in lines), "line")], {}


def _parsed(path: Path, number: int, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = str(error).partition(":")[0]
        line = number + getattr(error, "lineno", 1) - 1
        raise ValueError(f"{path} line {line} is not JSON ({reason}); write an object per line") from error


def _objects(path: Path, values: Any, unit: str) -> Iterator[Mapping[str, Any]]:
    for number, value in values:
        if not isinstance(value, dict):
            raise ValueError(f"{path} {unit} {number} is {type(value).__name__}, not an object with columns")
        yield value


def _separated(path: Path, **form: Any) -> Read:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True, **form)
        rows: list[Mapping[str, Any]] = []
        try:
            header = next(reader, [])
            for values in reader:
                if values and len(values) != len(header):
                    raise ValueError(
                        f"{path} line {reader.line_num} has {len(values)} values, its header has {len(header)} columns"
                    )
                if values:
                    rows.append(dict(zip(header, values, strict=True)))
        except csv.Error as error:
            raise ValueError(f"{path} line {reader.line_num} cannot be read: {error}") from error
    return rows, {}


def _tabbed(path: Path) -> Read:
    return _separated(path, delimiter="\t", quoting=csv.QUOTE_NONE)  # as in GLUE, whose texts have single quotes


def _parquet(path: Path) -> Read:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a sound parquet file: {str(error).splitlines()[0]}") from error
    return table.to_pylist(), _class_names(table.schema)


def _class_names(schema: Any) -> dict[str, Sequence[str]]:
    """Names of classes, where `datasets` wrote the file and is installed."""
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    datasets = require("datasets", extra="finetune")
    features = datasets.Features.from_arrow_schema(schema)
    return {name: of.names for name, of in features.items() if isinstance(of, datasets.ClassLabel)}


_READERS: dict[str, Callable[[Path], Read]] = {
    ".jsonl": _json_lines,
    ".json": _json_lines,
    ".csv": _separated,
    ".tsv": _tabbed,
    ".parquet": _parquet,
}


def _dataset(name: str) -> dict[str, Callable[[], Table]]:
    """A data set of the hub, or a local directory of one, by way of `datasets`."""
    datasets = require("datasets", extra="finetune")
    is_here = name.startswith("~") or Path(name).exists()
    path, _, subset = (name, "", "") if is_here else name.partition(":")
    path = str(local_path(path)) if is_here else path
    try:
        with nullcontext() if is_here else without_waiting_for_the_hub():
            loaded = datasets.load_dataset(path, *([subset] if subset else []))
    except Exception as error:  # datasets, pyarrow, fsspec and the hub's client each have their own
        raise ValueError(f"data 'hf:{name}' cannot be read: {first_line(error)}") from error

    def reader(part: str) -> Callable[[], Table]:
        names = {key: of.names for key, of in loaded[part].features.items() if isinstance(of, datasets.ClassLabel)}
        return lambda: Table(f"hf:{name} ({part})", loaded[part].to_list(), names)

    # Parts without labels, such as IMDB's "unsupervised", stand beside "train".
    wanted = [part for part in loaded if part == "train" or "train" not in loaded or _words(part) & _KNOWN]
    return {part: reader(part) for part in wanted}
