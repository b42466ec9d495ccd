"""What becomes of Adam's moments when the basis changes.

Legend: ``M, V (r, n)`` first and second moment; ``S_old, S (m, r)`` bases; ``Q = S^T S_old (r, r)``; t steps counted
from 1; ``Mh, Vh`` bias-corrected moments before step t.
"""

from __future__ import annotations

import torch
from torch import Tensor


def transport(M: Tensor, V: Tensor, Q: Tensor, *, age: int, betas: tuple[float, float], clamped: bool) -> None:
    """Projection-aware moments in place (LDAdam, arXiv 2410.16103; "AO" in arXiv 2502.01586).

    ``M = Q M`` and ``V = (1 - b2^(t-1)) |(Q*Q)(Vh - Mh*Mh) + (Q Mh)*(Q Mh)|``: the variance is carried over coordinate
    by coordinate, the mean exactly. The published absolute value can cross zero and then lets single steps grow;
    Where the carried second moment is zero but for rounding it is kept above the mean's, times the rounding squared.
    ``clamped`` takes ``max(Vh - Mh*Mh, 0)`` inside instead, so that ``V >= (Q Mh)^2`` bounds the step.

    Args:
        M: First moment (r, n), changed in place.
        V: Second moment (r, n), changed in place.
        Q: Rotation between the bases (r, r).
        age: Steps that the moments have seen, t - 1.
        betas: Adam's decay rates.
        clamped: Whether the variance is clamped at zero.
    """
    c = (1 - betas[1] ** age) / (1 - betas[0] ** age) ** 2  # V - c M*M is the variance, times V's correction
    V.addcmul_(M, M, value=-c)
    if clamped:
        V.clamp_min_(0)
    M.copy_(Q @ M)
    torch.addcmul((Q * Q) @ V, M, M, value=c, out=V).abs_()
    torch.maximum(V, M.square().mul_(c * torch.finfo(M.dtype).eps ** 2), out=V)
