"""RepNoise (arXiv 2405.14577): the representations of harmful rows become noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from subspace_lab.studies.safety.stages import Defense, check_not_negative, register_defense

if TYPE_CHECKING:
    from torch import Tensor, nn

    from subspace_lab.studies.safety.context import RunContext, StepContext
    from subspace_lab.training.tasks.base import Batch


@register_defense("repnoise")
@dataclass(frozen=True, kw_only=True)
class RepNoise(Defense):
    """``L_align + beta MMD(h_harm, N(0, I)) - alpha log(mean of harm CE over output and layers)``.

    The layers are the outputs of all blocks but the last, with the head of the model on each. The MMD compares the
    outputs of a block for all tokens of harm rows with as many that are drawn, and is the mean over blocks.

    Attributes:
        alpha: Strength of the ascent of the harmful loss.
        beta: Strength of the noise.
    """

    stage: ClassVar = "align"
    needs: ClassVar = frozenset({"harm"})
    whole_batch: ClassVar = True
    cost: ClassVar = "2 + heads"
    arxiv: ClassVar = "2405.14577"
    alpha: float = 0.1
    beta: float = 1e-3

    def __post_init__(self) -> None:
        check_not_negative(alpha=self.alpha, beta=self.beta)

    def prepare(self, run: RunContext) -> None:
        """See `Defense.prepare`."""
        run.state["seed"] = run.seed

    def gradient(self, step: StepContext) -> list[Tensor | None]:
        """See `Defense.gradient`."""
        seed = int(step.state["seed"])

        def loss(model: nn.Module, batch: Batch) -> Tensor:
            return self.harmful_loss(model, batch, seed=seed, index=step.index)

        return [a + h for a, h in zip(step.user(), step.gradient("harm", loss=loss), strict=True)]

    def harmful_loss(self, model: nn.Module, batch: Batch, *, seed: int, index: int) -> Tensor:
        """The two terms of harm rows.

        Args:
            model: A language model of transformers.
            batch: Harm rows.
            seed: Of the noise.
            index: Of the step, which the noise depends on too.

        Returns:
            A scalar.
        """
        import numpy as np
        import torch

        from subspace_lab.studies.safety.defenses.activations import block_outputs
        from subspace_lab.studies.safety.defenses.likelihood import cross_entropy, outputs
        from subspace_lab.studies.safety.matrix import mmd

        word = np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(word) >> 1)
        with block_outputs(model) as found:
            logits = outputs(model, batch).logits
        states = [*found.values()]
        head = model.get_output_embeddings()  # type: ignore[operator]
        losses = [cross_entropy(head(h), batch["labels"]) for h in states[:-1]]
        ascent = torch.log(torch.stack([*losses, cross_entropy(logits, batch["labels"])]).mean())
        distances = []
        counted = batch.get("attention_mask", torch.ones_like(batch["labels"])).bool()
        for h in states:
            X = h[counted]
            X = X.to(torch.promote_types(X.dtype, torch.float32))
            distances.append(mmd(X, torch.randn(X.shape, generator=generator, dtype=torch.float64).to(X)))
        return self.beta * torch.stack(distances).mean() - self.alpha * ascent
