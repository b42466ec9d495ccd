"""``OUT_DIR`` of the study: its layout.

::

    OUT_DIR/
      finetuning.json           the profile with all of its settings, and the environment
      results.parquet           one row per trial
      curves.parquet            their curves as means over blocks of steps
      tables/                   what was measured in captured runs, and a table per quantity
      work/cells/               the run directories, which may be removed at any time
      NAME.png, NAME.pdf, finetuning.md
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from subspace_lab.experiments.results import TRAINING
from subspace_lab.experiments.store import Kind, Store
from subspace_lab.experiments.variants import OF_TRAININGS
from subspace_lab.studies.finetuning.profiles import SCORES, Profile
from subspace_lab.training.start import faster_precision

_POINTS = 50
FINETUNING = Kind(
    "finetuning", "finetuning.json", "work/cells", "a fine-tuning study", points=_POINTS,
    factors={**TRAINING, "task": "str", "source": "str"}, also=tuple(dict.fromkeys(SCORES.values())), **OF_TRAININGS,
)  # fmt: skip


class FinetuningStore(Store):
    """The tables of a profile, from `open_store`.

    Attributes:
        profile: Its scale.
    """

    profile: Profile


def open_store(path: Path, profile: Profile) -> FinetuningStore:
    """Create or continue ``OUT_DIR``; RunError if it holds something else, or the tables of another profile."""
    store = FinetuningStore.begin(path, FINETUNING, profile.settings)
    store.profile = profile
    return store


def settled(path: Path, profile: Profile) -> Profile:
    """The profile with its precision measured, or as ``OUT_DIR`` has it; the first task alone where it is float32.

    Args:
        path: ``OUT_DIR``, perhaps not there yet.
        profile: With a precision of its own it stays as it is.

    Returns:
        The profile that is trained.

    Raises:
        RunError: If ``OUT_DIR`` holds something else.
    """
    if profile.config.precision != "auto":
        return profile
    store = Store.existing(path, FINETUNING)
    before = None if store is None else store.settings.get("config", {}).get("precision")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = before if before in {"float32", "bfloat16"} else faster_precision(device)
    tasks = profile.tasks[:1] if precision == "float32" else profile.tasks
    return dataclasses.replace(profile, config=dataclasses.replace(profile.config, precision=precision), tasks=tasks)
