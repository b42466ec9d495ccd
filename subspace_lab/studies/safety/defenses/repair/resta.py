"""RESTA (arXiv 2402.11746): what alignment changed is added to the tuned model, with DARE on the update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from subspace_lab.studies.safety.stages import Defense, check_not_negative, check_share, register_defense

if TYPE_CHECKING:
    from subspace_lab.studies.safety.context import RunContext


@register_defense("resta")
@dataclass(frozen=True, kw_only=True)
class Resta(Defense):
    """``W = W_aligned + DARE(D) + gamma V``: entries of D are dropped with probability p, the rest divided by 1 - p.

    It acts on all weights of the model, embeddings and norms among them; a layer with an adapter is merged, see
    `RunContext.write`. Nothing is written with gamma 0 and p 0.

    Attributes:
        gamma: How much of V is added.
        drop: The probability p.
    """

    stage: ClassVar = "repair"
    needs: ClassVar = frozenset({"base", "aligned"})
    cost: ClassVar = "no pass"
    arxiv: ClassVar = "2402.11746"
    gamma: float = 0.5
    drop: float = 0.0

    def __post_init__(self) -> None:
        check_not_negative(gamma=self.gamma)
        check_share(drop=self.drop)

    def repair(self, run: RunContext) -> None:
        """See `Defense.repair`."""
        import torch

        draw = torch.Generator().manual_seed(run.seed)
        for name in run.weights():
            W = run.weight(name)
            if self.drop:
                D = run.update(name)
                kept = torch.rand(D.shape, generator=draw, dtype=torch.float64).to(D.device) >= self.drop
                W = run.before("aligned", name) + torch.where(kept, D / (1 - self.drop), 0.0)
            if self.gamma:
                W = W + self.gamma * run.alignment(name)
            if self.drop or self.gamma:
                run.write(name, W)
