"""Antidote (arXiv 2408.09600): the weights that harmful rows use most are removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from subspace_lab.studies.safety.stages import Defense, check_share, register_defense

if TYPE_CHECKING:
    from torch import Tensor

    from subspace_lab.studies.safety.context import RunContext


@register_defense("antidote")
@dataclass(frozen=True, kw_only=True)
class Antidote(Defense):
    """In every row of a weight, zero the share of entries with the largest ``abs(W_ij) ‖x_j‖`` on harm rows.

    The weights are those of the linear layers in blocks; of a layer with an adapter those of B and A, each with the
    norms of its own inputs, and the layer below is left as it is.

    Attributes:
        share: Of the entries of a row, ``int(share n)`` of n.
    """

    stage: ClassVar = "repair"
    needs: ClassVar = frozenset({"harm", "matrices"})
    cost: ClassVar = "1 forward over the harm rows"
    arxiv: ClassVar = "2408.09600"
    share: float = 0.1

    def __post_init__(self) -> None:
        check_share(share=self.share)

    def repair(self, run: RunContext) -> None:
        """See `Defense.repair`."""
        import torch

        from subspace_lab.studies.safety.linear import parts_of
        from subspace_lab.studies.safety.matrix import antidote
        from subspace_lab.training.adapters import is_adapted

        layers = run.matrices()
        adapted = {name: layer for name, layer in layers.items() if is_adapted(layer)}
        pruned = 0
        for name, layer in (adapted or layers).items():
            H = run.inputs(name, "harm")
            if not adapted:
                W = run.weight(name)
                run.write(name, antidote(W, _norms(H).to(W), self.share))
                pruned += int(self.share * W.shape[1])
                continue
            A, B = parts_of(layer).parameters
            with torch.no_grad():
                norms = {B: _norms(A @ H.to(A) @ A.T), A: _norms(H)}
                for p, of_inputs in norms.items():
                    p.copy_(antidote(p, of_inputs.to(p), self.share))
                    pruned += int(self.share * p.shape[1])
        if not pruned:
            raise ValueError(f"antidote:share={self.share:g} of the longest row is less than one entry; ask for more")


def _norms(H: Tensor) -> Tensor:
    """The norm of each input over the tokens, up to a factor that all have in common."""
    return H.diagonal().clamp_min(0).sqrt()
