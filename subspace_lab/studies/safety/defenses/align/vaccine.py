"""Vaccine (arXiv 2402.01109): alignment under the perturbation of the activations that raises its loss most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from subspace_lab.studies.safety.stages import Defense, check_not_negative, register_defense

if TYPE_CHECKING:
    from torch import Tensor

    from subspace_lab.studies.safety.context import StepContext


@register_defense("vaccine")
@dataclass(frozen=True, kw_only=True)
class Vaccine(Defense):
    """A second pass with ``eps_l = rho g_l / ‖(g_1 .. g_L)‖`` added to the output of the attention of every block.

    g_l is the gradient there in the first pass; the gradient of the step is that of the second.

    Attributes:
        rho: Norm of the perturbation over all blocks and tokens of a batch.
    """

    stage: ClassVar = "align"
    whole_batch: ClassVar = True
    replaces_loss: ClassVar = True
    cost: ClassVar = "2"
    arxiv: ClassVar = "2402.01109"
    rho: float = 0.1

    def __post_init__(self) -> None:
        check_not_negative(rho=self.rho)

    def gradient(self, step: StepContext) -> list[Tensor | None]:
        """See `Defense.gradient`."""
        from subspace_lab.studies.safety.defenses.activations import Observed, perturbations, perturbed

        observed = Observed()
        step.gradient("user", loss=observed)
        added = perturbations(observed.all(), self.rho)
        return [*step.gradient("user", loss=perturbed(dict(enumerate(added))))]
