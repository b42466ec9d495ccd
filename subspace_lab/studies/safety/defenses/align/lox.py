"""LoX (arXiv 2506.15606): what alignment changed is extrapolated in its first directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from subspace_lab._checks import whole_number
from subspace_lab.studies.safety.stages import Defense, check_not_negative, register_defense

if TYPE_CHECKING:
    from subspace_lab.studies.safety.context import RunContext


@register_defense("lox")
@dataclass(frozen=True, kw_only=True)
class LoX(Defense):
    """After alignment ``W += c U_k S_k V_k^T`` of ``V = W - W_base``, for every linear layer in a block.

    Attributes:
        c: How far.
        k: How many directions; all of a matrix that has fewer.
    """

    stage: ClassVar = "align"
    needs: ClassVar = frozenset({"base", "matrices"})
    cost: ClassVar = "1 + an SVD per matrix at the end"
    arxiv: ClassVar = "2506.15606"
    c: float = 1.0
    k: int = 8

    def __post_init__(self) -> None:
        check_not_negative(c=self.c)
        whole_number("k", self.k)

    def repair(self, run: RunContext) -> None:
        """See `Defense.repair`."""
        from subspace_lab.studies.safety.matrix import lox

        for name in run.matrices():
            W = run.weight(name)
            run.write(name, W + lox(W - run.before("base", name), self.k, self.c))
