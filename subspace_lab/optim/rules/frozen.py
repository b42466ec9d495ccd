"""A basis that is never refreshed: the null that every other rule must beat."""

from __future__ import annotations

from torch import Tensor

from subspace_lab.optim.rules.base import Context, top_left_space


class Frozen:
    """Keeps the top-r left space of the first gradient for good."""

    def first(self, G: Tensor, rank: int, context: Context) -> Tensor:  # noqa: ARG002
        """See `Rule.first`."""
        return top_left_space(G, rank)

    def refresh(self, S: Tensor, G: Tensor, context: Context) -> Tensor:  # noqa: ARG002
        """See `Rule.refresh`."""
        return S.clone()
