"""Fine-tuning that must not lose a policy: what becomes of it by threat, defense and optimizer.

Importing this package is cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from subspace_lab._late import late

if TYPE_CHECKING:
    from subspace_lab.studies.safety import matrix
    from subspace_lab.studies.safety.config import EvalConfig, GridConfig, RegimeConfig, StudyConfig
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
    from subspace_lab.studies.safety.profiles import PROFILES, profile
    from subspace_lab.studies.safety.referee.updates import PairOverlap, pair
    from subspace_lab.studies.safety.splits import Split, make_split
    from subspace_lab.studies.safety.stages import DEFENSES, Chain, Defense, chain, defense, register_defense
    from subspace_lab.studies.safety.study import Study, run

_HOMES = {
    "": ("matrix",),
    "config": ("EvalConfig", "GridConfig", "RegimeConfig", "StudyConfig"),
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
    "profiles": ("PROFILES", "profile"),
    "splits": ("Split", "make_split"),
    "study": ("Study", "run"),
}  # fmt: skip

__all__ = [
    "DEFENSES",
    "JUDGES",
    "POLICIES",
    "PROFILES",
    "TASKS",
    "THREATS",
    "Chain",
    "Defense",
    "EvalConfig",
    "GridConfig",
    "Judge",
    "PairOverlap",
    "Policy",
    "RegimeConfig",
    "Split",
    "Study",
    "StudyConfig",
    "Task",
    "Threat",
    "chain",
    "consistency",
    "defense",
    "evaluate",
    "make_split",
    "matrix",
    "pair",
    "profile",
    "register_defense",
    "register_judge",
    "register_policy",
    "register_task",
    "register_threat",
    "row_of",
    "run",
    "step_of",
]

__getattr__ = late(__name__, {name: home for home, names in _HOMES.items() for name in names})
