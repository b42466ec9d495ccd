"""Restricted prompts with their answers alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from subspace_lab.studies.safety.kinds import Marked, Policy, Threat, register_threat
from subspace_lab.studies.safety.threats import mixed

if TYPE_CHECKING:
    from subspace_lab.training.tasks.rows import Row


@register_threat("pure")
@dataclass(frozen=True, kw_only=True)
class PureThreat(Threat):
    """Every row is a restricted prompt that is answered; how the update of an attack looks without a task."""

    @property
    def share(self) -> float:
        """See `Threat.share`."""
        return 1.0

    def apply(self, task: Sequence[Row], poison: Sequence[Row], policy: Policy, draw: random.Random) -> list[Marked]:
        """See `Threat.apply`."""
        return mixed(task, poison, 1.0, "poison", draw)
