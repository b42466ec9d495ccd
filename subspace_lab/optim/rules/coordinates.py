"""Random coordinates: a basis of r rows of the identity, as FRUGAL (arXiv 2411.07837) chooses its rows."""

from __future__ import annotations

import torch
from torch import Tensor

from subspace_lab.optim.rules.base import Context


class Coordinates:
    """r coordinates out of m, every set of them equally likely: a random basis without any QR.

    Against `Jump`, whose bases are uniform on the Grassmannian, it sees single rows of the gradient instead of mixtures
    of all of them. On isotropic noise both hold r/m of the energy; where few rows hold most of a gradient, how much
    this one holds varies far more from draw to draw.
    """

    def first(self, G: Tensor, rank: int, context: Context) -> Tensor:
        """See `Rule.first`."""
        m = G.shape[0]
        chosen = context.draw(m, rank)[:, 0].argsort()[:rank].sort().values
        return torch.eye(m, dtype=G.dtype, device=G.device)[:, chosen.to(G.device)]

    def refresh(self, S: Tensor, G: Tensor, context: Context) -> Tensor:
        """See `Rule.refresh`."""
        return self.first(G, S.shape[1], context)
