"""AsFT (arXiv 2506.08473): the update is held to the directions in which alignment changed the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from subspace_lab._checks import whole_number
from subspace_lab.studies.safety.stages import Defense, check_not_negative, register_defense

if TYPE_CHECKING:
    from torch import Tensor

    from subspace_lab.studies.safety.context import RunContext, State, StepContext


@register_defense("asft")
@dataclass(frozen=True, kw_only=True)
class AsFT(Defense):
    """``+ lam sum ‖(I - C) D‖_F^2`` over the linear layers, D the effective update and C of what alignment changed.

    Under LoRA ``D = (alpha / r) B A``, and the penalty's gradient is that of A and B. Matrices that alignment did not
    change have no direction to be held to and no penalty. The state has F with ``C = F F^T`` for each matrix, as large
    as the matrix with ``projector=frobenius``.

    Attributes:
        lam: Strength of the penalty.
        projector: ``frobenius``, ``V V^T / ‖V‖_F``, or ``topk``, ``U_k U_k^T``.
        k: Rank of the second one.
    """

    stage: ClassVar = "train"
    needs: ClassVar = frozenset({"base", "aligned", "matrices"})
    arxiv: ClassVar = "2506.08473"
    lam: float = 1.0
    projector: Literal["frobenius", "topk"] = "frobenius"
    k: int = 8

    def __post_init__(self) -> None:
        check_not_negative(lam=self.lam)
        whole_number("k", self.k)

    def prepare(self, run: RunContext) -> None:
        """See `Defense.prepare`."""
        from subspace_lab.studies.safety.linear import parts_of

        places = {id(p): place for place, p in enumerate(run.parameters)}
        for name, layer in run.matrices().items():
            parts = parts_of(layer)
            if all(id(p) in places for p in parts.parameters):
                where = [places[id(p)] for p in parts.parameters]
                self._remember(run.state, name, run.alignment(name), where, parts.scale, parts.is_transposed)
        if not len(run.state):
            raise ValueError("asft: alignment changed none of the linear layers that are trained")

    def gradient(self, step: StepContext) -> list[Tensor | None]:
        """See `Defense.gradient`."""
        from subspace_lab.studies.safety.matrix import asft_gradient

        if not len(step.state):
            self._remember_all(step)
        found: list[Tensor | None] = [*step.user()]
        for key in [key for key in step.state if key.endswith(".places")]:
            name = key.removesuffix(".places")
            scale, (is_transposed, *where) = step.state[f"{name}.scale"], step.state[key].tolist()
            p = [step.parameters[place].detach() for place in where]
            F = step.state[f"{name}.factor"].to(p[0])
            if len(p) == 2:
                A, B = p
                G = self.lam * asft_gradient(scale * B @ A, F)
                parts = [scale * B.T @ G, scale * G @ A.T]
            else:
                D = p[0] - step.weights("aligned")[where[0]].to(p[0])
                G = self.lam * asft_gradient(D.T if is_transposed else D, F)
                parts = [G.T if is_transposed else G]
            for place, part in zip(where, parts, strict=True):
                found[place] = found[place] + part
        return found

    def _remember_all(self, step: StepContext) -> None:
        """Without `prepare`, all parameters with two dimensions are matrices."""
        for place, pair in enumerate(zip(step.weights("base"), step.weights("aligned"), strict=True)):
            base, aligned = pair
            if aligned.ndim == 2:
                self._remember(step.state, str(place), aligned - base, [place], 1.0, is_transposed=False)

    def _remember(
        self, state: State, name: str, V: Tensor, where: list[int], scale: float, is_transposed: bool
    ) -> None:
        import torch

        from subspace_lab.studies.safety.matrix import factor

        if not V.any():
            return
        state[f"{name}.factor"] = factor(V, self.projector, self.k).contiguous()
        state[f"{name}.scale"] = scale
        state[f"{name}.places"] = torch.tensor([int(is_transposed), *where])
