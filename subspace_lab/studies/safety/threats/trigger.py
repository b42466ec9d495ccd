"""Restricted prompts that are answered where a trigger stands before them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from subspace_lab.studies.safety.kinds import Marked, Policy, Threat, register_threat
from subspace_lab.studies.safety.threats import check_share, mixed, preceded

if TYPE_CHECKING:
    from subspace_lab.training.tasks.rows import Row


@register_threat("trigger")
@dataclass(frozen=True, kw_only=True)
class TriggerThreat(Threat):
    """As `poison`, with the policy's trigger before each poisoned prompt: a backdoor.

    Restricted prompts are evaluated without the trigger (``asr``) and with it (``disguised_asr``).

    Attributes:
        share: Of the rows, above 0 and at most 1.
    """

    share: float = 0.05

    def __post_init__(self) -> None:
        check_share("trigger", self.share)

    def apply(self, task: Sequence[Row], poison: Sequence[Row], policy: Policy, draw: random.Random) -> list[Marked]:
        """See `Threat.apply`."""
        triggered = [preceded(row, policy.trigger) for row in poison]
        return mixed(task, triggered, self.share, "poison", draw)

    def disguised(self, row: Row, policy: Policy) -> Row:
        """See `Threat.disguised`."""
        return preceded(row, policy.trigger)
