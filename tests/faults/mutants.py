"""One fault in one file: what disks, other programs, other releases and people do to the files of a directory."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

Fault = Callable[[Path, random.Random], object]
VALUES: tuple[Any, ...] = (None, "text", -1, 0, 2**70, float("nan"), float("inf"), True, [], {}, [[]], "x" * 100_000)


def _flip(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes() or b"\0")
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def _zeros(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    start = draw.randrange(max(1, len(data)))
    data[start : start + 512] = bytes(len(data[start : start + 512]))
    path.write_bytes(data)


def _swapped(path: Path, draw: random.Random) -> None:
    others = sorted(file for file in path.parent.iterdir() if file.is_file() and file != path)
    path.write_bytes(draw.choice(others).read_bytes() if others else b"PAR1")


def _instead(make: Callable[[Path], object]) -> Fault:
    def fault(path: Path, draw: random.Random) -> None:
        path.unlink()
        make(path)

    return fault


def _outside(path: Path) -> None:
    elsewhere = path.parents[2] / f"elsewhere-{path.name}"
    elsewhere.write_text("somebody else's")
    path.symlink_to(elsewhere)


BYTES: dict[str, Fault] = {
    "flip": _flip,
    "zeros": _zeros,
    "cut": lambda path, draw: os.truncate(path, draw.randrange(max(1, path.stat().st_size))),
    "empty": lambda path, draw: path.write_bytes(b""),
    "longer": lambda path, draw: path.write_bytes(path.read_bytes() + draw.randbytes(100)),
    "swapped": _swapped,
    "text": lambda path, draw: path.write_text("not what it was\n"),
    "huge": lambda path, draw: os.truncate(path, 1 << 40),
    "gone": lambda path, draw: path.unlink(),
    "fifo": _instead(os.mkfifo),
    "directory": _instead(Path.mkdir),
    "circle": _instead(lambda path: path.symlink_to(path)),
    "link out": _instead(_outside),
    "twice": lambda path, draw: shutil.copy(path, path.with_name(f"copy of {path.name}")),
}


def _places(content: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys = content.keys() if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    return [place for key in keys for place in [(*at, key), *_places(content[key], (*at, key))]]


def _edited(path: Path, draw: random.Random, edit: Callable[[Any, Any], object]) -> None:
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    number = draw.randrange(len(lines))
    content = json.loads(lines[number])
    *way, last = draw.choice(_places(content))
    inner = content
    for key in way:
        inner = inner[key]
    edit(inner, last)
    lines[number] = json.dumps(content)
    path.write_text("\n".join(lines) + "\n")


JSON: dict[str, Fault] = {
    "missing key": lambda path, draw: _edited(path, draw, lambda inner, key: inner.pop(key)),
    "wrong type": lambda path, draw: _edited(
        path, draw, lambda inner, key: inner.__setitem__(key, draw.choice(VALUES))
    ),
    "no object": lambda path, draw: path.write_text(draw.choice(["[]", "null", "{}", "3", '"text"', "[[[]]]"])),
    "deep": lambda path, draw: path.write_text("[" * 100_000),
    "NaN": lambda path, draw: path.write_text("NaN"),
}


def _table(edit: Callable[[pd.DataFrame, random.Random], pd.DataFrame]) -> Fault:
    def fault(path: Path, draw: random.Random) -> None:
        edit(pd.read_parquet(path), draw).to_parquet(path, index=False)

    return fault


def _with(value: Any) -> Callable[[pd.DataFrame, random.Random], pd.DataFrame]:
    return lambda table, draw: table.assign(**{draw.choice([*table.columns]): value})


TABLE: dict[str, Fault] = {
    "a column gone": _table(lambda table, draw: table.drop(columns=draw.choice([*table.columns]))),
    "a column renamed": _table(lambda table, draw: table.rename(columns={draw.choice([*table.columns]): "other"})),
    "a column of text": _table(_with("text")),
    "a column of NaN": _table(_with(float("nan"))),
    "a column of lists": _table(
        lambda table, draw: table.assign(**{draw.choice([*table.columns]): [[1]] * len(table)})
    ),
    "no rows": _table(lambda table, draw: table.iloc[:0]),
    "rows twice": _table(lambda table, draw: pd.concat([table, table])),
    "other columns": _table(lambda table, draw: pd.DataFrame({"a": [1]})),
}


def faults_of(path: Path) -> dict[str, Fault]:
    """The faults that a file of this kind can have."""
    if path.suffix in {".json", ".jsonl"}:
        return BYTES | JSON
    return BYTES | TABLE if path.suffix == ".parquet" else BYTES
