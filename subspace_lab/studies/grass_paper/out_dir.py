"""``OUT_DIR`` of the study: its layout.

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

from subspace_lab.experiments.results import TRAINING
from subspace_lab.experiments.store import Kind
from subspace_lab.experiments.variants import OF_TRAININGS
from subspace_lab.studies.grass_paper.profiles import Profile
from subspace_lab.studies.grass_paper.quantity import PaperStore

_POINTS = 50


def open_store(path: Path, profile: Profile) -> PaperStore:
    """Create or continue ``OUT_DIR``; RunError if it holds something else, or the tables of another profile."""
    store = PaperStore.begin(path, PAPER, profile.settings)
    store.profile = profile
    return store


PAPER = Kind(
    "evidence", "evidence.json", "work/cells", "regenerated figures", factors={**TRAINING, "captured": "bool"},
    points=_POINTS, **OF_TRAININGS,
)  # fmt: skip
