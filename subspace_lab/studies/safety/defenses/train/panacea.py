"""Panacea (arXiv 2501.18100): a perturbation that raises the harmful loss is trained for and added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from subspace_lab.studies.safety.stages import Defense, check_not_negative, register_defense

if TYPE_CHECKING:
    from torch import Tensor

    from subspace_lab.studies.safety.context import RunContext, StepContext


@register_defense("panacea")
@dataclass(frozen=True, kw_only=True)
class Panacea(Defense):
    """``g_u - lam (g_h(w + e) - g_h(w))`` with ``e = rho g_h / ‖g_h‖``; after the last step ``w += e``.

    The e that is added is that of the last step. To first order the term is ``-lam rho H u`` with the Hessian H of the
    harmful loss and u along its gradient: it ascends ``‖g_h‖``, while `booster` descends it. Under LoRA all of this is
    of the adapters.

    Attributes:
        lam: Strength of the term.
        rho: Length of the perturbation, over all trainable parameters.
    """

    stage: ClassVar = "train"
    needs: ClassVar = frozenset({"harm"})
    whole_model: ClassVar = True
    cost: ClassVar = "3"
    arxiv: ClassVar = "2501.18100"
    lam: float = 1e-3
    rho: float = 1.0

    def __post_init__(self) -> None:
        check_not_negative(lam=self.lam, rho=self.rho)

    def gradient(self, step: StepContext) -> list[Tensor | None]:
        """See `Defense.gradient`."""
        from subspace_lab.studies.safety.defenses.whole import of_length

        g_u, g_h = step.user(), step.harm()
        e = of_length(g_h, self.rho)
        with step.at(e):
            there = step.harm()
        if step.index == step.total - 1:
            step.state.update({f"e.{place}": part for place, part in enumerate(e)})
        return [u - self.lam * (t - h) for u, t, h in zip(g_u, there, g_h, strict=True)]

    def repair(self, run: RunContext) -> None:
        """See `Defense.repair`."""
        import torch

        with torch.no_grad():
            for place, p in enumerate(run.parameters):
                p.add_(run.state[f"e.{place}"].to(p))
