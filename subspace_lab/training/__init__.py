"""Short training runs: model presets, data, the loop.

``import subspace_lab.training`` is cheap: torch and transformers are imported when `train` is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from subspace_lab._late import late
from subspace_lab.training.config import TrainConfig
from subspace_lab.training.presets import PRESETS, Preset, parameter_shapes, preset

if TYPE_CHECKING:
    from subspace_lab.training.adapters import add_lora, effective_updates
    from subspace_lab.training.interrupt import DivergedError, TrainingInterrupted
    from subspace_lab.training.loop import train
    from subspace_lab.training.restored import RestoredCheckpoints
    from subspace_lab.training.start import stored_config

__all__ = [
    "PRESETS",
    "DivergedError",
    "Preset",
    "RestoredCheckpoints",
    "TrainConfig",
    "TrainingInterrupted",
    "add_lora",
    "effective_updates",
    "parameter_shapes",
    "preset",
    "stored_config",
    "train",
]

_LATE = {
    "DivergedError": "interrupt",
    "RestoredCheckpoints": "restored",
    "TrainingInterrupted": "interrupt",
    "add_lora": "adapters",
    "effective_updates": "adapters",
    "stored_config": "start",
    "train": "loop",
}
__getattr__ = late(__name__, _LATE)
