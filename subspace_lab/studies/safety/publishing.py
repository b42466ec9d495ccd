"""What of a study is kept beside a paper or in a repository: its tables, without cells and weights."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subspace_lab.experiments.store import Kind, Store
from subspace_lab.runs import RunError
from subspace_lab.runs.files import publish, publish_json
from subspace_lab.studies.safety.reading import Tables

MARK = "published"  # in the manifest of what has no cells
KEPT = (*(f"{one.name}.parquet" for one in dataclasses.fields(Tables)), "table.csv", "table.tex")
_OF_CELLS = ("cells", "jobs")


def publish_tables(root: Path, manifest: Mapping[str, Any], target: Path, kind: Kind) -> None:
    """Copy the tables of a study, all but the one with a row per prompt, with its settings and its environment.

    `Study.open` opens the copy, and a page can be made from it, but there is nothing to verify.

    Args:
        root: ``OUT_DIR``.
        manifest: Of it.
        target: A directory that is new, empty, or holds such a copy.
        kind: How a study lies on disk.

    Raises:
        RunError: If the directory holds something else, or cannot be written.
    """
    there = Store.existing(target, kind)
    if there is not None and MARK not in there.manifest:
        raise RunError(f"{target} is a study with cells of its own; choose another directory")
    for name in KEPT:
        with publish(target / name) as aside:
            shutil.copyfile(root / name, aside)
    publish_json(target / kind.manifest, {**manifest, **{name: [] for name in _OF_CELLS}, MARK: True})


def check_has_cells(path: Path, manifest: Mapping[str, Any]) -> None:
    """RunError for a copy that `publish_tables` made."""
    if MARK in manifest:
        raise RunError(f"{path} has the tables of a study without its cells; do this where the study was run")
