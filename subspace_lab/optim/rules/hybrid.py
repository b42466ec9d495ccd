"""Walks with an occasional jump: local moves most of the time, and every so often a new start.

Not published: this project's own answer to a question that reviewers of arXiv 2510.01878 asked.
"""

from __future__ import annotations

from torch import Tensor

from subspace_lab.optim.rules.base import Context, Refreshed
from subspace_lab.optim.rules.jump import Jump
from subspace_lab.optim.rules.walk import Walk


class Hybrid(Walk):
    """Every ``jump_every``-th refresh is a jump, the others are walks."""

    options: tuple[str, ...] = ("walk_step", "jump_every")

    def refresh(self, S: Tensor, G: Tensor, context: Context) -> Refreshed:
        """See `Rule.refresh`."""
        jump = (int(context.refresh) % int(context.group["jump_every"])) == 0
        return Jump().refresh(S, G, context) if jump else super().refresh(S, G, context)
