"""Where the text comes from: the standard library, files, or a dataset that is streamed."""

from __future__ import annotations

import glob
import hashlib
import os
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subspace_lab._extras import require
from subspace_lab._paths import local_path
from subspace_lab._text import first_line
from subspace_lab.training.hub import without_waiting_for_the_hub

_NOT_STDLIB = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
_FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}


@dataclass(frozen=True)
class Source:
    """Documents and what identifies them.

    Attributes:
        identity: Equal for equal documents; the cache is keyed by it.
        documents: Gives the documents from the start, each time it is called.
    """

    identity: str
    documents: Callable[[], Iterator[str]]


def find_source(data: str) -> Source:
    """The source that a ``data`` setting names.

    Args:
        data: ``stdlib``, ``hf:<dataset>``, or a path or glob of text, jsonl (``.jsonl``, ``.json``) or parquet files;
            a file of any other name is text.

    Returns:
        The source.

    Raises:
        ValueError: If there is nothing of that name.
    """
    if data == "stdlib":
        return _stdlib()
    if data.startswith("hf:") and not data.startswith("hf://"):
        return _dataset(data.removeprefix("hf:"))
    return _files(data)


def stdlib_modules() -> list[tuple[str, Path]]:
    """Dotted names and files of the standard library's modules, tests left out, in the order of their names."""
    root = Path(sysconfig.get_path("stdlib"))
    named = (
        (name.with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"), name) for name in _modules(root)
    )
    return [(module, root / name) for module, name in sorted(named)]


def _stdlib() -> Source:
    # The sources of the running Python's standard library, without tests and what was installed into it, in the order
    # of the SHA-256 of their names: fixed, and the held-out tail is a fair sample of the modules.
    root = Path(sysconfig.get_path("stdlib"))
    names = sorted(_modules(root), key=lambda name: hashlib.sha256(name.as_posix().encode()).digest())
    paths = [root / name for name in names]
    return Source(_hash_of_files(paths), lambda: map(_read_text, paths))


def _modules(root: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(root):
        below[:] = [name for name in below if name not in _NOT_STDLIB]
        own = (name for name in files if name.endswith(".py") and not name.startswith("_sysconfigdata"))
        yield from (Path(folder, name).relative_to(root) for name in own)


def _files(pattern: str) -> Source:
    whole = local_path(pattern)
    is_glob = glob.has_magic(str(whole)) and not whole.exists()
    paths = [Path(found) for found in sorted(glob.glob(str(whole), recursive=True))] if is_glob else [whole]
    paths = [path for path in paths if not (is_glob and path.is_dir())]
    if not paths:
        raise ValueError(f"data={pattern!r} matches no file; check the pattern (** crosses directories)")
    for path in paths:
        if path.is_dir():
            raise ValueError(f"data={pattern!r} is a directory; give a glob such as {str(path / '**' / '*.txt')!r}")
        if not path.is_file():
            raise ValueError(f"data={pattern!r} does not exist; give a file, a glob, stdlib or hf:<dataset>")
    return Source(_hash_of_files(paths), lambda: (text for path in paths for text in _documents(path)))


def _documents(path: Path) -> Iterable[str]:
    if not path.stat().st_size:
        return []
    form = _FORMATS.get(path.suffix)
    if form is None:
        return [_read_text(path)]
    return _rows(str(path), form, data_files=[str(path)])


def _dataset(name: str) -> Source:
    """A dataset of the hub, or a local directory of one, by way of `datasets`."""
    path, _, subset = (name, "", "") if Path(name).exists() else name.partition(":")
    path = str(local_path(path)) if path.startswith("~") else path
    stats = [(str(file), file.stat()) for file in sorted(Path(path).rglob("*"))]  # none of a dataset on the hub
    listing = [f"{file} {stat.st_size} {stat.st_mtime_ns}" for file, stat in stats]
    identity = hashlib.sha256("\n".join([name, *listing]).encode()).hexdigest()
    return Source(identity, lambda: _rows(f"hf:{name}", path, *([subset] if subset else [])))


def _rows(where: str, *arguments: str, data_files: list[str] | None = None) -> Iterator[str]:
    field = None
    for row in _stream(where, *arguments, data_files=data_files):
        field = field or _text_field(where, row)
        if isinstance(text := row.get(field), str) and text:
            yield text


def _stream(where: str, *arguments: str, data_files: list[str] | None) -> Iterator[Mapping[str, Any]]:
    datasets = require("datasets", extra="hf")
    try:
        is_there = data_files or Path(arguments[0]).exists()
        with nullcontext() if is_there else without_waiting_for_the_hub():
            yield from datasets.load_dataset(*arguments, data_files=data_files, split="train", streaming=True)
    except Exception as error:  # datasets, pyarrow, fsspec and the hub's client each have their own
        raise ValueError(f"data {where!r} cannot be read: {first_line(error)}") from error


def _text_field(where: str, row: Mapping[str, Any]) -> str:
    texts = [field for field, value in row.items() if isinstance(value, str)]
    if "text" in texts:
        return "text"
    if len(texts) != 1:
        raise ValueError(f"data {where!r} has no field 'text' and {len(texts)} other fields of text "
                         f"({', '.join(row)}); rename one to 'text'")  # fmt: skip
    return texts[0]


def _read_text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); leave it out") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if (position := text.find("\0")) >= 0:
        raise ValueError(f"{path} is not text (a zero byte at character {position}); leave it out")
    return text


def _hash_of_files(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest() + path.suffix.encode())
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()
