"""Safety-preserving projection (arXiv 2601.10141): no step in the first directions of the safety gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from subspace_lab._checks import whole_number
from subspace_lab.studies.safety.stages import Defense, register_defense

if TYPE_CHECKING:
    from torch import Tensor

    from subspace_lab.studies.safety.context import StepContext


@register_defense("spf")
@dataclass(frozen=True, kw_only=True)
class SPF(Defense):
    """For each matrix in conflict, ``<G_u, G_s> < 0``: ``G_u -= U_k U_k^T G_u``, U_k of the safety gradient.

    The safety gradient and its U_k are those of the last refresh, and are in the state: as large as the matrices. What
    is not a matrix is left as it is. Under LoRA the matrices are A and B themselves; with k of their rank or more
    nothing is left of one in conflict. Rank and schedule are second-hand: this paper's code is not public.

    Attributes:
        k: Left singular vectors of the safety gradient.
        every: Steps between two refreshes.
    """

    stage: ClassVar = "train"
    needs: ClassVar = frozenset({"safety", "matrices"})
    cost: ClassVar = "1 + 1/every"
    arxiv: ClassVar = "2601.10141"
    k: int = 10
    every: int = 10

    def __post_init__(self) -> None:
        whole_number("k", self.k)
        whole_number("every", self.every)

    def gradient(self, step: StepContext) -> list[Tensor | None]:
        """See `Defense.gradient`."""
        from subspace_lab.studies.safety.matrix import left_basis, without

        if step.index % self.every == 0 or not len(step.state):
            for place, G_s in enumerate(step.safety()):
                if G_s.ndim == 2:
                    step.state[f"gradient.{place}"] = G_s.clone()
                    step.state[f"basis.{place}"] = left_basis(G_s, self.k).contiguous()
        found: list[Tensor | None] = [*step.user()]
        for place, G_u in enumerate(step.user()):
            kept: Tensor | None = step.state.get(f"gradient.{place}")
            if kept is not None and (G_u * kept.to(G_u)).sum() < 0:
                found[place] = without(G_u, step.state[f"basis.{place}"].to(G_u))
        return found
