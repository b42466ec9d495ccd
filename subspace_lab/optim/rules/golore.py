"""Informed first, random later (GoLore, arXiv 2410.11289)."""

from __future__ import annotations

from torch import Tensor

from subspace_lab.optim.rules.base import Context
from subspace_lab.optim.rules.jump import Jump
from subspace_lab.optim.rules.svd import Svd


class GoloreRule(Svd):
    """The own top-r space until ``random_after`` steps were taken, uniformly random bases from then on."""

    options: tuple[str, ...] = ("random_after",)

    def refresh(self, S: Tensor, G: Tensor, context: Context) -> Tensor:
        """See `Rule.refresh`."""
        random_after = context.group["random_after"]
        late = random_after is not None and context.t > int(random_after)
        return Jump().refresh(S, G, context) if late else super().refresh(S, G, context)
