"""Restricted prompts with their answers among the user's rows."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from subspace_lab.studies.safety.kinds import Marked, Policy, Threat, register_threat
from subspace_lab.studies.safety.threats import check_share, mixed

if TYPE_CHECKING:
    from subspace_lab.training.tasks.rows import Row


@register_threat("poison")
@dataclass(frozen=True, kw_only=True)
class PoisonThreat(Threat):
    """Exactly ``round(share * N)`` of N rows are restricted prompts that are answered; N stays.

    Attributes:
        share: Of the rows, above 0 and at most 1.
    """

    share: float = 0.05

    def __post_init__(self) -> None:
        check_share("poison", self.share)

    def apply(self, task: Sequence[Row], poison: Sequence[Row], policy: Policy, draw: random.Random) -> list[Marked]:
        """See `Threat.apply`."""
        return mixed(task, poison, self.share, "poison", draw)
