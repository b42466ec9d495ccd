"""A uniformly random basis (GrassJump, arXiv 2510.01878)."""

from __future__ import annotations

import torch
from torch import Tensor

from subspace_lab.optim.rules.base import Context


class Jump:
    """Q of the QR of a Gaussian matrix: uniform on the Grassmannian, because the Gaussian knows no direction."""

    def first(self, G: Tensor, rank: int, context: Context) -> Tensor:
        """See `Rule.first`."""
        Q: Tensor = torch.linalg.qr(context.draw(G.shape[0], rank).to(G)).Q
        return Q

    def refresh(self, S: Tensor, G: Tensor, context: Context) -> Tensor:
        """See `Rule.refresh`."""
        return self.first(G, S.shape[1], context)
