"""The own top-r space of the current gradient (GaLore, arXiv 2403.03507)."""

from __future__ import annotations

import torch
from torch import Tensor

from subspace_lab.optim.rules.base import Context, top_left_space


class Svd:
    """Top-r left singular vectors of G; at a refresh with the signs that agree with the old basis.

    Singular vectors are defined up to their sign. Moments that are kept as they are would otherwise meet signs that the
    linear algebra library chose.
    """

    def first(self, G: Tensor, rank: int, context: Context) -> Tensor:  # noqa: ARG002
        """See `Rule.first`."""
        return top_left_space(G, rank)

    def refresh(self, S: Tensor, G: Tensor, context: Context) -> Tensor:  # noqa: ARG002
        """See `Rule.refresh`."""
        if not bool(G.any()):
            return S.clone()
        fresh = top_left_space(G, S.shape[1])
        return fresh * torch.where((S * fresh).sum(0) < 0, -1, 1)
