"""``comparison.json``: which cells a comparison has, and what they have in common."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subspace_lab._reading import read_json, typed
from subspace_lab._version import __version__
from subspace_lab.runs import RunError, environment
from subspace_lab.runs.files import publish_json, unwritable
from subspace_lab.studies.optimizers.cells import Cell
from subspace_lab.training import TrainConfig

COMPARISON = "comparison.json"
FORMAT = "subspace_lab.comparison"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class _Row:
    """A cell in the manifest."""

    method: str
    lr: float
    seed: int
    config: dict  # type: ignore[type-arg]


def read_comparison(path: Path) -> dict[str, Any]:
    """The manifest of a comparison.

    Args:
        path: Its directory.

    Returns:
        The manifest: ``config`` (what all cells have in common), ``methods`` (settings by name), ``cells``.

    Raises:
        RunError: If there is none, or it is broken or of a newer format.
    """
    file = path / COMPARISON
    try:
        if not file.is_file():
            raise RunError(f"{path} holds no comparison; give the directory that subspace-lab compare wrote")
        manifest = read_json(file)
    except (ValueError, OSError) as error:
        raise RunError(f"{file} cannot be read ({error}); restore it from a copy") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise RunError(f"{file} is not the manifest of a comparison; choose another directory")
    if manifest.get("format_version") != FORMAT_VERSION:
        version = manifest.get("format_version")
        raise RunError(
            f"{file} has format version {version}, this release reads {FORMAT_VERSION}; upgrade subspace_lab"
        )
    for name, kind in (("config", dict), ("methods", dict), ("cells", list)):
        if not isinstance(manifest.get(name), kind):
            raise RunError(f"{file} has no sound {name!r}; restore it from a copy")
    return manifest


def stored_cells(manifest: Mapping[str, Any]) -> list[Cell]:
    """The cells of a comparison, in the order in which they were asked for.

    Args:
        manifest: From `read_comparison`.

    Returns:
        The cells.

    Raises:
        RunError: If they are of another release.
    """
    try:
        rows = [typed(_Row, row) for row in manifest["cells"]]
        return [Cell(row.method, row.lr, row.seed, TrainConfig.from_dict(row.config)) for row in rows]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{COMPARISON} is of another release ({error}); choose another directory") from error


def stored_base(path: Path) -> TrainConfig | None:
    """What the cells of a comparison have in common, None where there is no comparison yet.

    Args:
        path: The directory.

    Returns:
        The configuration.

    Raises:
        RunError: If something else is there.
    """
    if (path / COMPARISON).exists():
        try:
            return TrainConfig.from_dict(read_comparison(path)["config"])
        except (TypeError, ValueError) as error:
            raise RunError(f"{path / COMPARISON} is of another release ({error}); choose another directory") from error
    try:
        if path.exists() and not path.is_dir():
            raise RunError(f"{path} is a file; choose another directory")
        if path.is_dir() and any(not entry.name.startswith(".") for entry in path.iterdir()):
            raise RunError(f"{path} is not empty and no comparison; choose another directory")
    except OSError as error:
        raise RunError(unwritable(path, error)) from error
    return None


def join_comparison(
    path: Path, base: TrainConfig, methods: Mapping[str, Mapping[str, Any]], cells: Sequence[Cell]
) -> dict[str, Any]:
    """Write the manifest of a new comparison, or add what is new to the one that is there.

    Args:
        path: The directory.
        base: What the cells have in common.
        methods: Settings by name.
        cells: The cells.

    Returns:
        The manifest, as it is on disk.

    Raises:
        RunError: If the comparison that is there has other settings; the message names the difference.
    """
    if not (path / COMPARISON).exists():
        manifest = _new(base)
    else:
        manifest = read_comparison(path)
        _check_same(path, manifest, methods)
    known = {(row["method"], row["lr"], row["seed"]) for row in manifest["cells"]}
    new = [cell for cell in cells if (cell.method, cell.lr, cell.seed) not in known]
    manifest["methods"] |= {name: dict(settings) for name, settings in methods.items()}
    manifest["cells"] += [
        {"method": cell.method, "lr": cell.lr, "seed": cell.seed, "config": cell.config.to_dict()} for cell in new
    ]
    if new:
        publish_json(path / COMPARISON, manifest)
    return manifest


def _new(base: TrainConfig) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "library_version": __version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "config": base.to_dict(),
        "environment": environment(),
        "methods": {},
        "cells": [],
    }


def _check_same(path: Path, manifest: Mapping[str, Any], methods: Mapping[str, Mapping[str, Any]]) -> None:
    for name in sorted(methods.keys() & manifest["methods"].keys()):
        before, now = manifest["methods"][name], json.loads(json.dumps(dict(methods[name])))
        if before != now:
            raise other_comparison(path, f"method {name} {before!r} -> {now!r}")


def other_comparison(path: Path, difference: str) -> RunError:
    """The error for a directory that holds a comparison with other settings."""
    return RunError(f"{path} holds another comparison ({difference}); choose another directory for this one")
