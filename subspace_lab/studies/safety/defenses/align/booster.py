"""Booster (arXiv 2409.01586): alignment that makes a step along the harmful gradient gain less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from subspace_lab.studies.safety.stages import Defense, check_not_negative, register_defense

if TYPE_CHECKING:
    from torch import Tensor

    from subspace_lab.studies.safety.context import StepContext


@register_defense("booster")
@dataclass(frozen=True, kw_only=True)
class Booster(Defense):
    """``g_a + lam (g_h(w) - g_h(w - alpha g_h / ‖g_h‖))``, g_a of the alignment rows and g_h of harm rows.

    To first order the term is ``lam alpha H u``, H the Hessian of the harmful loss and u along its gradient: it
    descends ``‖g_h‖``.

    Attributes:
        lam: Strength of the term.
        alpha: Length of the simulated harmful step, over all trainable parameters.
    """

    stage: ClassVar = "align"
    needs: ClassVar = frozenset({"harm"})
    whole_model: ClassVar = True
    cost: ClassVar = "3"
    arxiv: ClassVar = "2409.01586"
    lam: float = 5.0
    alpha: float = 0.1

    def __post_init__(self) -> None:
        check_not_negative(lam=self.lam, alpha=self.alpha)

    def gradient(self, step: StepContext) -> list[Tensor | None]:
        """See `Defense.gradient`."""
        from subspace_lab.studies.safety.defenses.whole import of_length

        g_a, g_h = step.user(), step.harm()
        with step.at(of_length(g_h, -self.alpha)):
            there = step.harm()
        return [a + self.lam * (h - t) for a, h, t in zip(g_a, g_h, there, strict=True)]
