"""T-Vaccine (arXiv 2410.09760): Vaccine on a few blocks, drawn by how much harmful rows move them; only these train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from subspace_lab._checks import whole_number
from subspace_lab.studies.safety.stages import Defense, check_not_negative, register_defense

if TYPE_CHECKING:
    from torch import Tensor

    from subspace_lab.studies.safety.context import RunContext, StepContext


@register_defense("t_vaccine")
@dataclass(frozen=True, kw_only=True)
class TVaccine(Defense):
    """Vaccine on a few blocks, drawn without replacement, ``p_l`` proportional to ``‖g_l‖`` on harm rows.

    Parameters outside of the blocks that are drawn get no gradient, embeddings and head among them.

    Attributes:
        rho: Norm of the perturbation over the blocks that are drawn.
        blocks: How many; all where there are fewer.
        every: Steps between two draws.
        weigh_every: Steps between two measurements of p.
    """

    stage: ClassVar = "align"
    needs: ClassVar = frozenset({"harm"})
    whole_batch: ClassVar = True
    replaces_loss: ClassVar = True
    cost: ClassVar = "2 + 1/weigh_every"
    arxiv: ClassVar = "2410.09760"
    rho: float = 3.0
    blocks: int = 8
    every: int = 20
    weigh_every: int = 200

    def __post_init__(self) -> None:
        check_not_negative(rho=self.rho)
        for name in ("blocks", "every", "weigh_every"):
            whole_number(name, getattr(self, name))

    def prepare(self, run: RunContext) -> None:
        """See `Defense.prepare`."""
        import torch

        from subspace_lab.studies.safety.defenses.activations import attention_blocks

        paths = [path for path, _ in attention_blocks(run.model)]
        names = [name for name, p in run.model.named_parameters() if p.requires_grad]
        own = [next((at for at, path in enumerate(paths) if name.startswith(f"{path}.")), -1) for name in names]
        run.state.update({"seed": run.seed, "block": torch.tensor(own)})

    def gradient(self, step: StepContext) -> list[Tensor | None]:
        """See `Defense.gradient`."""
        from subspace_lab.studies.safety.defenses.activations import Observed, perturbations, perturbed

        if step.index % self.weigh_every == 0:
            harmful = Observed()
            step.gradient("harm", loss=harmful)
            step.state["p"] = _shares(harmful.all())
        if step.index % self.every == 0:
            step.state["drawn"] = self.draw(step.state["p"], step.state["seed"], step.index)
        drawn = step.state["drawn"].tolist()
        observed = Observed()
        step.gradient("user", loss=observed)
        added = perturbations(observed.of(drawn), self.rho)
        found = step.gradient("user", loss=perturbed(dict(zip(drawn, added, strict=True))))
        blocks = step.state["block"].tolist()
        return [g if block in drawn else None for g, block in zip(found, blocks, strict=True)]

    def draw(self, p: Tensor, seed: int, index: int) -> Tensor:
        """The blocks of the steps from one on.

        Args:
            p: ``(blocks,)``, the shares.
            seed: Of the training.
            index: Of the first of these steps.

        Returns:
            Numbers of blocks, ascending; a function of the arguments.
        """
        import numpy as np
        import torch

        word = np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(word) >> 1)
        weights = p.double().cpu().clamp_min(1e-12)
        return torch.multinomial(weights, min(self.blocks, len(p)), generator=generator).sort().values


def _shares(gradients: list[Tensor]) -> Tensor:
    import torch

    norms = torch.stack([torch.linalg.vector_norm(g.double()) for g in gradients])
    return norms / norms.sum() if norms.sum() > 0 else torch.full_like(norms, 1 / len(norms))
