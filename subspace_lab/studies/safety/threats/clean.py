"""No attack."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from subspace_lab.studies.safety.kinds import Marked, Policy, Threat, register_threat

if TYPE_CHECKING:
    from subspace_lab.training.tasks.rows import Row


@register_threat("clean")
@dataclass(frozen=True, kw_only=True)
class CleanThreat(Threat):
    """The user's rows as they are: what fine-tuning alone does to a policy."""

    needs_poison: ClassVar[bool] = False

    def apply(self, task: Sequence[Row], poison: Sequence[Row], policy: Policy, draw: random.Random) -> list[Marked]:
        """See `Threat.apply`."""
        return [Marked(row, "task") for row in task]
