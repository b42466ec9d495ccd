"""Constrained fine-tuning (arXiv 2406.05946): tokens that tuning already made likelier count less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from subspace_lab._checks import whole_number
from subspace_lab.studies.safety.stages import Defense, check_not_negative, register_defense

if TYPE_CHECKING:
    from torch import Tensor, nn

    from subspace_lab.studies.safety.context import StepContext
    from subspace_lab.training.tasks.base import Batch


@register_defense("constrained_sft")
@dataclass(frozen=True, kw_only=True)
class ConstrainedSFT(Defense):
    """Cross-entropy with a weight per token, ``2 (1 - sigmoid(beta_t (log p - log p_aligned)))``, at least 0.001.

    The weights have no gradient, and the loss is divided by the number of tokens, so that it is plain cross-entropy
    while the model is the aligned one.

    Attributes:
        beta: Strength of the constraint.
        first: Times this on the first token of a response.
        prefix: Times this on the tokens behind it, up to `length`.
        length: Tokens of a response that are held.
    """

    stage: ClassVar = "train"
    needs: ClassVar = frozenset({"aligned"})
    cost: ClassVar = "1 + 1 forward"
    arxiv: ClassVar = "2406.05946"
    replaces_loss: ClassVar = True
    beta: float = 0.1
    first: float = 5.0
    prefix: float = 20.0
    length: int = 5

    def __post_init__(self) -> None:
        check_not_negative(beta=self.beta, first=self.first, prefix=self.prefix)
        whole_number("length", self.length)

    def gradient(self, step: StepContext) -> list[Tensor | None]:
        """See `Defense.gradient`."""
        aligned = step.weights("aligned")

        def loss(model: nn.Module, batch: Batch) -> Tensor:
            from subspace_lab.studies.safety.defenses.likelihood import log_probabilities, logits_with, outputs
            from subspace_lab.studies.safety.matrix import constrained_weights

            labels = batch["labels"]
            now, counted = log_probabilities(outputs(model, batch).logits, labels)
            before, _ = log_probabilities(logits_with(model, batch, step.parameters, aligned), labels)
            weights = constrained_weights(now.detach() - before, self._betas(counted))
            return -(weights * now)[counted].mean()

        return [*step.gradient("user", loss=loss)]

    def _betas(self, counted: Tensor) -> Tensor:
        """By the place of a token in its response."""
        place = counted.cumsum(1)  # 1 for the first token
        betas = self.beta * (1 + (self.prefix - 1) * ((place > 1) & (place <= self.length)))
        return betas.where(place != 1, self.beta * self.first)
