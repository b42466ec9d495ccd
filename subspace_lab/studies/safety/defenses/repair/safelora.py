"""Safe LoRA (arXiv 2405.16833): updates far from what alignment changed are projected on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from subspace_lab._checks import is_number, whole_number
from subspace_lab.studies.safety.stages import Defense, register_defense

if TYPE_CHECKING:
    from subspace_lab.studies.safety import matrix
    from subspace_lab.studies.safety.context import RunContext


@register_defense("safelora")
@dataclass(frozen=True, kw_only=True)
class SafeLoRA(Defense):
    """For every linear layer in a block: if ``cos(C D, D) <= tau``, ``D = C D``.

    D is the effective update, adapters merged, and is written as `RunContext.write` says. The C of the paper is no
    projector, see `matrix.projector`: the state has ``<name>.cosine``, ``.gain`` and ``.idempotence_error`` of every
    matrix, and how many were ``projected``. Matrices that alignment or tuning did not change are left as they are.

    Attributes:
        tau: The largest cosine at which an update is projected.
        matrices: Instead of by tau, project so many matrices, those with the lowest cosines.
        projector: ``frobenius``, ``V V^T / ‖V‖_F``, or ``topk``, ``U_k U_k^T``.
        k: Rank of the second one.
    """

    stage: ClassVar = "repair"
    needs: ClassVar = frozenset({"base", "aligned", "matrices"})
    cost: ClassVar = "no pass, a product per matrix"
    arxiv: ClassVar = "2405.16833"
    tau: float = 0.5
    matrices: int | None = None
    projector: Literal["frobenius", "topk"] = "frobenius"
    k: int = 8

    def __post_init__(self) -> None:
        whole_number("k", self.k)
        if not is_number(self.tau):
            raise ValueError(f"tau must be a number, got {self.tau!r}")
        if self.matrices is not None:
            whole_number("matrices", self.matrices)

    def repair(self, run: RunContext) -> None:
        """See `Defense.repair`."""
        cosines = {}
        for name in run.matrices():
            if (found := self._look(run, name)) is not None:
                cosines[name] = found.cosine
                for key in ("cosine", "gain", "idempotence_error"):
                    run.state[f"{name}.{key}"] = getattr(found, key)
        chosen = [name for name, cosine in cosines.items() if cosine <= self.tau]
        if self.matrices is not None:
            if self.matrices > len(cosines):
                raise ValueError(f"safelora:matrices={self.matrices}, but {len(cosines)} were changed; ask for fewer")
            chosen = sorted(cosines, key=cosines.__getitem__)[: self.matrices]
        for name in chosen:
            found = self._look(run, name)
            assert found is not None
            run.write(name, run.before("aligned", name) + found.projected)
        run.state["projected"] = len(chosen)

    def _look(self, run: RunContext, name: str) -> matrix.SafeLoRA | None:
        from subspace_lab.studies.safety.matrix import safelora

        D, V = run.update(name), run.alignment(name)
        return safelora(D, V, self.tau, self.projector, self.k) if D.any() and V.any() else None
