"""Every hash of a study again: what differs from what was recorded, a line each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from subspace_lab.experiments.hashing import FORMAT_VERSION, content_hash
from subspace_lab.experiments.recipe import WEIGHTS, weights_hash
from subspace_lab.runs import RunError
from subspace_lab.runs.files import file_hash
from subspace_lab.runs.tables import read_table
from subspace_lab.studies.safety.content import forget, split_of
from subspace_lab.studies.safety.places import outcomes_file, weights_dir
from subspace_lab.studies.safety.tables import ADVICE, Cells, tables_of
from subspace_lab.studies.safety.weights import MODEL

Job = Mapping[str, Any]


def differences(root: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Compare what is on disk with the records.

    The rows of a split are drawn again where no plug-in was named and the files of a policy are there; nothing is
    imported that the manifest names.

    Args:
        root: ``OUT_DIR``.
        manifest: Of it.

    Yields:
        A line per difference.
    """
    forget()
    cells = Cells(root, manifest)
    for job in cells.jobs.values():
        yield from _of_job(cells, job)
        if job["recipe"].endswith(":TUNE") and not manifest["settings"]["plugins"]:
            yield from _of_split(job)
    try:
        for name, table in tables_of(cells):
            yield from _of_table(root / f"{name}.parquet", table)
    except RunError as error:
        yield str(error)


def _of_job(cells: Cells, job: Job) -> Iterator[str]:
    name = job["name"]
    record = cells.record(name)
    content = {"format": FORMAT_VERSION, **{key: job[key] for key in ("recipe", "content", "parents")}}
    if content_hash(content) != job["hash"] or not name.endswith(job["hash"][:12]):
        yield f"{name}: the hash is not that of its content"
    if record.status != "complete":
        yield f"{name}: {record.status}{f' ({record.reason})' if record.reason else ''}"
        return
    for parent in cells.parents(name):
        if record.parents.get(cells.jobs[parent]["hash"]) != cells.record(parent).weights:
            yield f"{name}: began from other weights than {parent} has"
    cell = cells.trials_dir / name
    if job["recipe"].endswith(":EVALUATE"):
        file, recorded = outcomes_file(cell), cells.state(name).get("outcomes")
        if not file.is_file():
            yield f"{file} is missing"
        elif file_hash(file) != recorded:
            yield f"{file} was altered"
        return
    yield from _of_weights(cell, record.weights)


def _of_weights(cell: Path, recorded: str | None) -> Iterator[str]:
    directory, adapters = weights_dir(cell), cell / WEIGHTS
    if not directory.exists() and not adapters.exists():
        return  # removed on request, both of them
    if weights_hash(cell) != recorded:
        yield f"{adapters} is {'not what its record says' if adapters.is_file() else 'missing'}"
    file = directory / MODEL
    if not file.is_file():
        yield f"{file} is missing"
    elif not _has_adapters(adapters) and file_hash(file) != recorded:
        yield f"{file} was altered"


def _has_adapters(file: Path) -> bool:
    """Whether the weights of a cell are adapters, beside which the whole model lies merged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            return any("lora_" in name for name in opened.keys())  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError):
        return False


def _of_split(job: Job) -> Iterator[str]:
    about = job["config"]
    try:
        now = split_of(*(about[name] for name in ("task", "policy", "threat", "rows", "seed", "draw"))).hash
    except (ValueError, OSError) as error:
        yield f"{job['name']}: its rows cannot be drawn again ({error})"
        return
    if now != job["content"]["rows"]:
        yield f"{job['name']}: its rows are others now (hash {now[:12]}, recorded {job['content']['rows'][:12]})"


def _of_table(file: Path, expected: pd.DataFrame) -> Iterator[str]:
    try:
        found = read_table(file, ADVICE)
        pd.testing.assert_frame_equal(found, expected, check_dtype=False, check_categorical=False)
    except FileNotFoundError:
        yield f"{file} is missing"
    except RunError as error:
        yield str(error)
    except AssertionError:
        yield f"{file} is not what the cells say; {ADVICE}"
