"""SafeGrad (arXiv 2508.07172): what of the user's gradient is against safety is taken out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from subspace_lab.studies.safety.stages import Defense, check_not_negative, register_defense

if TYPE_CHECKING:
    from torch import Tensor

    from subspace_lab.studies.safety.context import StepContext


@register_defense("safegrad")
@dataclass(frozen=True, kw_only=True)
class SafeGrad(Defense):
    """Surgery on the gradient: where ``<g_u, g_s> < 0``, ``g_u -= <g_u, g_s> / ‖g_s‖^2 g_s``; then ``g_u + rho g_s``.

    The inner product is over all trainable parameters. Without surgery it is `rehearsal`, without rho surgery alone.

    Attributes:
        rho: Weight of the safety gradient in the step.
        loss: Of the safety rows: the KL divergence to the aligned model, or cross-entropy.
    """

    stage: ClassVar = "train"
    needs: ClassVar = frozenset({"safety", "aligned"})
    whole_model: ClassVar = True
    cost: ClassVar = "2 + 1 forward"
    arxiv: ClassVar = "2508.07172"
    rho: float = 1.0
    loss: Literal["kl", "ce"] = "kl"

    def __post_init__(self) -> None:
        check_not_negative(rho=self.rho)

    def gradient(self, step: StepContext) -> list[Tensor | None]:
        """See `Defense.gradient`."""
        from subspace_lab.studies.safety.defenses.whole import inner

        g_u, g_s = step.user(), step.safety(loss=self.loss)
        product, square = inner(g_u, g_s), inner(g_s, g_s)
        along = self.rho - product / square if product < 0 else product.new_tensor(self.rho)
        return [u + along.to(s) * s for u, s in zip(g_u, g_s, strict=True)]
