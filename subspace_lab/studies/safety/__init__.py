"""Fine-tuning that must not lose a policy: what becomes of it by threat, defense and optimizer.

Importing this package is cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from subspace_lab._late import late

if TYPE_CHECKING:
    from subspace_lab.studies.safety import matrix
    from subspace_lab.studies.safety.context import step_of
    from subspace_lab.studies.safety.evaluation import evaluate
    from subspace_lab.studies.safety.kinds import (
        JUDGES,
        POLICIES,
        TASKS,
        THREATS,
        Judge,
        Policy,
        Task,
        Threat,
        register_judge,
        register_policy,
        register_task,
        register_threat,
    )
    from subspace_lab.studies.safety.metrics.consistency import consistency
    from subspace_lab.studies.safety.metrics.outcomes import row_of
    from subspace_lab.studies.safety.referee.updates import PairOverlap, pair
    from subspace_lab.studies.safety.splits import Split, make_split
    from subspace_lab.studies.safety.stages import DEFENSES, Chain, Defense, chain, defense, register_defense

_HOMES = {
    "": ("matrix",),
    "context": ("step_of",),
    "stages": ("DEFENSES", "Chain", "Defense", "chain", "defense", "register_defense"),
    "kinds": (
        "JUDGES", "POLICIES", "TASKS", "THREATS", "Judge", "Policy", "Task", "Threat",
        "register_judge", "register_policy", "register_task", "register_threat",
    ),
    "evaluation": ("evaluate",),
    "metrics.consistency": ("consistency",),
    "metrics.outcomes": ("row_of",),
    "referee.updates": ("PairOverlap", "pair"),
    "splits": ("Split", "make_split"),
}  # fmt: skip

__all__ = [
    "DEFENSES",
    "JUDGES",
    "POLICIES",
    "TASKS",
    "THREATS",
    "Chain",
    "Defense",
    "Judge",
    "PairOverlap",
    "Policy",
    "Split",
    "Task",
    "Threat",
    "chain",
    "consistency",
    "defense",
    "evaluate",
    "make_split",
    "matrix",
    "pair",
    "register_defense",
    "register_judge",
    "register_policy",
    "register_task",
    "register_threat",
    "row_of",
    "step_of",
]

__getattr__ = late(__name__, {name: home for home, names in _HOMES.items() for name in names})
