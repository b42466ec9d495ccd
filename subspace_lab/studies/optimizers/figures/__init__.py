"""The figures of a comparison, one file each: they read its tables and draw them, nothing else.

As for a run, every figure's file has a ``TITLE``, a ``CAPTION`` and ``draw(tables, layout=PAGE)``.
"""

from types import ModuleType

from subspace_lab.studies.optimizers.figures import loss_by_state, loss_over_steps, loss_over_time
from subspace_lab.studies.optimizers.figures.tables import Tables

FIGURES: dict[str, ModuleType] = {
    "loss_over_steps": loss_over_steps,
    "loss_over_time": loss_over_time,
    "loss_by_state": loss_by_state,
}

__all__ = ["FIGURES", "Tables"]
