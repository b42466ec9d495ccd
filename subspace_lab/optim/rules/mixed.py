"""Rules that are another rule most of the time, and jump to a random basis at some refreshes."""

from __future__ import annotations

from torch import Tensor

from subspace_lab.optim.rules.base import Context, Refreshed
from subspace_lab.optim.rules.random_bases import Jump
from subspace_lab.optim.rules.top_space import Svd
from subspace_lab.optim.rules.walk import Walk


class GoloreRule(Svd):
    """The own top-r space until ``random_after`` steps were taken, then random bases (GoLore, arXiv 2410.11289)."""

    options: tuple[str, ...] = ("random_after",)

    def refresh(self, S: Tensor, G: Tensor, context: Context) -> Tensor:
        """See `Rule.refresh`."""
        random_after = context.group["random_after"]
        late = random_after is not None and context.t > int(random_after)
        return Jump().refresh(S, G, context) if late else super().refresh(S, G, context)


class Hybrid(Walk):
    """Every ``jump_every``-th refresh is a jump, the others are walks.

    Not published: this project's own answer to a question that reviewers of arXiv 2510.01878 asked.
    """

    options: tuple[str, ...] = ("walk_step", "jump_every")

    def refresh(self, S: Tensor, G: Tensor, context: Context) -> Refreshed:
        """See `Rule.refresh`."""
        jump = (int(context.refresh) % int(context.group["jump_every"])) == 0
        return Jump().refresh(S, G, context) if jump else super().refresh(S, G, context)
