"""Safe Delta (arXiv 2505.12038): of the update, what harms safety least is kept within a budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from subspace_lab._checks import positive_number, whole_number
from subspace_lab.studies.safety.stages import Defense, check_not_negative, register_defense

if TYPE_CHECKING:
    from subspace_lab.studies.safety.context import RunContext


@register_defense("safedelta")
@dataclass(frozen=True, kw_only=True)
class SafeDelta(Defense):
    """For every linear layer in a block, keep the entries of D that move its outputs on safety rows least.

    ``H = 2 X^T X / tokens`` of the layer's inputs, see `matrix.safedelta`. D is the effective update, adapters merged,
    and is written as `RunContext.write` says. Matrices that tuning did not change are left as they are.

    Attributes:
        s: Size of the budget.
        rows: Safety rows that H is measured on.
        damping: This much of the mean of H's diagonal is added to it.
    """

    stage: ClassVar = "repair"
    needs: ClassVar = frozenset({"safety", "aligned", "matrices"})
    cost: ClassVar = "1 forward over some safety rows, a Cholesky per matrix"
    arxiv: ClassVar = "2505.12038"
    s: float = 0.1
    rows: int = 128
    damping: float = 0.01

    def __post_init__(self) -> None:
        check_not_negative(s=self.s)
        whole_number("rows", self.rows)
        positive_number("damping", self.damping)

    def repair(self, run: RunContext) -> None:
        """See `Defense.repair`."""
        from subspace_lab.studies.safety.matrix import safedelta

        for name in run.matrices():
            if run.update(name).any():
                H = 2 * run.inputs(name, "safety", self.rows)
                aligned = run.before("aligned", name)
                run.write(name, safedelta(aligned, run.weight(name), H, self.s, self.damping))
