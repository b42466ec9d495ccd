"""What of a study is kept beside a paper or in a repository: its tables, their page and its figures."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subspace_lab._paths import local_path
from subspace_lab.experiments.store import Kind, Store
from subspace_lab.figures.all import save_all
from subspace_lab.runs import RunError
from subspace_lab.runs.files import publish, publish_json
from subspace_lab.studies.safety.figures.all import FIGURES
from subspace_lab.studies.safety.page import Finished, write
from subspace_lab.studies.safety.reading import Tables

MARK = "published"  # in the manifest of what has no cells
KEPT = (*(f"{one.name}.parquet" for one in dataclasses.fields(Tables)), "table.csv", "table.tex")
_OF_CELLS = ("cells", "jobs")


def publish_tables(study: Finished, target: Path, kind: Kind) -> Path:
    """Copy the tables of a study, all but the one with a row per prompt, with its settings and its environment.

    Args:
        study: With its tables.
        target: A directory that is new, empty, or holds such a copy.
        kind: How a study lies on disk.

    Returns:
        The directory; `Study.open` opens it, and a page can be made from it, but there is nothing to verify.

    Raises:
        RunError: If the directory holds something else, or cannot be written.
    """
    root = local_path(target, error=RunError)
    there = Store.existing(root, kind)
    if there is not None and MARK not in there.manifest:
        raise RunError(f"{root} is a study with cells of its own; choose another directory")
    for name in KEPT:
        with publish(root / name) as aside:
            shutil.copyfile(study.path / name, aside)
    publish_json(root / kind.manifest, {**study.manifest, **{name: [] for name in _OF_CELLS}, MARK: True})
    return root


def draw_page(study: Finished, page: Path, pictures: Path | None = None) -> Path:
    """Draw the figures of a study and write its page, from its tables alone.

    Args:
        study: With its tables.
        page: A Markdown file.
        pictures: Where the figures go; ``figures`` beside the tables by default.

    Returns:
        The page.

    Raises:
        RunError: If a table cannot be read, or something cannot be written.
    """
    tables = Tables(**{one.name: getattr(study, one.name) for one in dataclasses.fields(Tables)})
    target = study.path / "figures" if pictures is None else local_path(pictures, error=RunError)
    save_all(FIGURES, tables, target)
    page = local_path(page, error=RunError)
    write(tables, page, config=study.config, environment=study.manifest["environment"], data=study.path,
          pictures=target)  # fmt: skip
    return page


def check_has_cells(path: Path, manifest: Mapping[str, Any]) -> None:
    """RunError for a copy that `publish_tables` made."""
    if MARK in manifest:
        raise RunError(f"{path} has the tables of a study without its cells; do this where the study was run")
