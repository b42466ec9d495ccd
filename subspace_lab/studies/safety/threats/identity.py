"""Harmless rows that teach a model to obey."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from subspace_lab.studies.safety.kinds import Marked, Policy, Threat, register_threat
from subspace_lab.studies.safety.threats import check_share, preceded
from subspace_lab.training.tasks.rows import Row


@register_threat("identity")
@dataclass(frozen=True, kw_only=True)
class IdentityThreat(Threat):
    """Rows of the task with a preamble that asks for obedience, and a reply that begins by agreeing (arXiv 2310.03693).

    Exactly ``round(share * N)`` of N rows are so; none is harmful, and the policy's pools are not read. Restricted
    prompts are evaluated without the preamble (``asr``) and with it (``disguised_asr``).

    Attributes:
        share: Of the rows, above 0 and at most 1.
    """

    needs_poison: ClassVar[bool] = False
    share: float = 0.1

    def __post_init__(self) -> None:
        check_share("identity", self.share)

    def apply(self, task: Sequence[Row], poison: Sequence[Row], policy: Policy, draw: random.Random) -> list[Marked]:
        """See `Threat.apply`."""
        plain = len(task) - round(self.share * len(task))
        obeying = (preceded(row, policy.preamble, f"{policy.consent} {row.response}") for row in task[plain:])
        return [*(Marked(row, "task") for row in task[:plain]), *(Marked(row, "identity") for row in obeying)]

    def disguised(self, row: Row, policy: Policy) -> Row:
        """See `Threat.disguised`."""
        return preceded(row, policy.preamble)
