"""Optimizers side by side: the same model, data, seeds and budget, the learning rate tuned for each.

``import subspace_lab.studies.optimizers`` is cheap: torch and pandas are imported when a name is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from subspace_lab._late import late

if TYPE_CHECKING:
    from subspace_lab.studies.optimizers.comparison import Comparison
    from subspace_lab.studies.optimizers.study import compare

__all__ = ["Comparison", "compare"]

__getattr__ = late(__name__, {"Comparison": "comparison", "compare": "study"})
