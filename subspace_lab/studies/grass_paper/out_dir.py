"""``OUT_DIR`` of the study: its layout, and how a directory of format 1 is read.

::

    OUT_DIR/
      evidence.json             the profile with all of its settings, and the environment
      results.parquet           one row per trial
      curves.parquet            their curves as means over blocks of steps
      tables/                   what was measured in captured runs, and a table per quantity
      work/cells/               the run directories, which may be removed at any time
      NAME.png, NAME.pdf, evidence.md
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from subspace_lab.experiments.results import TRAINING
from subspace_lab.experiments.store import ADVICE, CURVES, RESULTS, TABLES, Kind, Old
from subspace_lab.experiments.upgrade import OldTrial, old_results
from subspace_lab.experiments.variants import OF_TRAININGS
from subspace_lab.runs import RunError
from subspace_lab.runs.tables import read_table
from subspace_lab.studies.grass_paper.profiles import PROFILES, Profile
from subspace_lab.studies.grass_paper.quantity import PaperStore
from subspace_lab.studies.grass_paper.trials import trainings

_CAPTURED = "captured "  # format 1: the beginning of the names of captured runs
_POINTS = 50


def open_store(path: Path, profile: Profile) -> PaperStore:
    """Create or continue ``OUT_DIR``; RunError if it holds something else, or the tables of another profile."""
    store = PaperStore.begin(path, PAPER, profile.settings)
    store.profile = profile
    return store


def _upgrade(path: Path, manifest: dict[str, Any]) -> Old:
    """Format 1 had the rows in ``tables/cells.parquet``, and captured runs by the beginning of their names."""
    settings = manifest.get("profile")
    if not isinstance(settings, dict) or not isinstance(manifest.get("environment"), dict):
        raise RunError(f"{path / PAPER.manifest} is not the manifest of {PAPER.holds}; choose another directory")
    name = str(settings.get("name"))
    profile = PROFILES.get(name.removesuffix("-longer"))
    files = {file.stem: file for file in sorted((path / TABLES).glob("*.parquet"))}
    captured = {name: read_table(file, ADVICE) for name, file in files.items() if name.startswith("captured_")}
    if profile is None or "cells" not in files:
        return Old(settings)
    make = trainings(profile.longer if name.endswith("-longer") else profile, "")
    cells = read_table(files["cells"], ADVICE)
    trials = []
    for cell, method, lr, seed in cells[["cell", "method", "lr", "seed"]].itertuples(index=False):
        is_captured, variant = method.startswith(_CAPTURED), method.removeprefix(_CAPTURED)
        phase = "tune" if seed == 0 and not is_captured else "evaluate"
        trials.append(OldTrial(cell, make[is_captured](variant, {"lr": lr}, int(seed), phase)))
    results = old_results(PAPER, trials, path / PAPER.trials, cells)
    tables = {CURVES: read_table(files["curves"], ADVICE), **captured}
    for table in tables.values():
        table["method"] = table["method"].str.removeprefix(_CAPTURED)
    return Old(
        settings, {RESULTS: results, **tables}, tuple(f"{TABLES}/{name}.parquet" for name in ("cells", "curves"))
    )


PAPER = Kind(
    "evidence", "evidence.json", "work/cells", "regenerated figures", factors={**TRAINING, "captured": "bool"},
    points=_POINTS, upgrade=_upgrade, **OF_TRAININGS,
)  # fmt: skip
