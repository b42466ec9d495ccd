"""Rehearsal: the gradient of safety rows is added to the user's; the control of every defense that has both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from subspace_lab.studies.safety.stages import Defense, check_not_negative, register_defense

if TYPE_CHECKING:
    from torch import Tensor

    from subspace_lab.studies.safety.context import StepContext


@register_defense("rehearsal")
@dataclass(frozen=True, kw_only=True)
class Rehearsal(Defense):
    """Train on safety rows too: ``g_u + rho g_s``.

    Attributes:
        rho: Weight of the safety rows.
    """

    stage: ClassVar = "train"
    needs: ClassVar = frozenset({"safety"})
    cost: ClassVar = "2"
    rho: float = 1.0

    def __post_init__(self) -> None:
        check_not_negative(rho=self.rho)

    def gradient(self, step: StepContext) -> list[Tensor | None]:
        """See `Defense.gradient`."""
        return [u + self.rho * s for u, s in zip(step.user(), step.safety(), strict=True)]
