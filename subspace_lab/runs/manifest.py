"""``manifest.json``: what was captured, how and where."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subspace_lab._checks import is_whole
from subspace_lab._reading import read_json
from subspace_lab.runs.errors import RunError
from subspace_lab.runs.files import confined
from subspace_lab.runs.layer_table import broken_capture, broken_layers

MANIFEST = "manifest.json"
FORMAT = "subspace_lab.run"
FORMAT_VERSION = 1
_LAYOUT = (MANIFEST, "metrics.jsonl", "snapshots", "checkpoints", "analysis", "figures")


def read_manifest(run_dir: Path) -> dict[str, Any]:
    """The manifest of a run.

    Args:
        run_dir: The run directory.

    Returns:
        The manifest as it is in the file.

    Raises:
        RunError: If the directory is missing, empty, no run, of a newer format, or its manifest is broken, or if a
            link in it leads outside.
    """
    path = run_dir / MANIFEST
    try:
        _check_directory(run_dir)
        manifest = read_json(path)
    except (ValueError, OSError) as error:
        raise RunError(f"{path} cannot be read ({error}); restore it from a copy") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise RunError(f"{path} is not the manifest of a run; give the directory that a capture wrote")
    version = manifest.get("format_version")
    if not is_whole(version):
        raise RunError(f"{path} has no format version; restore it from a copy")
    if version > FORMAT_VERSION:
        raise RunError(
            f"{path} has format version {version}, this release reads up to {FORMAT_VERSION}; upgrade subspace_lab"
        )
    if broken := broken_capture(manifest.get("capture")) or broken_layers(manifest.get("layers")):
        raise RunError(f"{path} {broken}; restore it from a copy")
    return manifest


def plain(what: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they come back from JSON: tuples as lists, and nothing that JSON cannot hold.

    Args:
        what: What they are, for the message.
        value: The settings.

    Returns:
        A copy of them.

    Raises:
        ValueError: If something in them cannot be written as JSON.
    """
    try:
        copy: dict[str, Any] = json.loads(json.dumps(dict(value)))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{what} cannot be written as JSON ({error}); give numbers, strings, lists, dicts") from error
    return copy


def _check_directory(run_dir: Path) -> None:
    advice = "give the directory that a capture or a training run wrote"
    if not run_dir.is_dir():
        what = "is a file" if run_dir.exists() else "does not exist"
        raise RunError(f"run directory {run_dir} {what}; {advice}")
    if not any(run_dir.iterdir()):
        raise RunError(f"run directory {run_dir} is empty; {advice}")
    for name in _LAYOUT:
        confined(run_dir, run_dir / name)
    if not (run_dir / MANIFEST).is_file():
        raise RunError(f"{run_dir} is not a run: it has no {MANIFEST}; {advice}")
