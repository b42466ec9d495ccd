"""A rank-1 geodesic step down the subspace estimation error (SubTrack, arXiv 2502.01586).

Legend: ``A = S^T G (r, n)``; ``R = G - S A``; ``2 R A^T = s u v^T + ...`` leading singular triplet, u (m,), v (r,).
"""

from __future__ import annotations

import torch
from torch import Tensor

from subspace_lab.optim.rules.base import Context, orthonormalized, top_left_space

_ROUNDING = 10  # no move where the leading singular value is not above this many roundings of ||G||_F^2


class Track:
    """``S+ = S + ((cos th - 1) S v + sin th u) v^T`` with ``th`` from ``step_size``.

    ``step_size="exact"`` takes the angle that minimizes the error along this geodesic,
    ``th = atan2(s, |A^T v|^2 - |G^T u|^2) / 2``: nothing to tune, and never uphill. (This is the project's own; the
    papers' step is ``th = step_size * s``, which a number gives.)
    """

    options: tuple[str, ...] = ("step_size",)

    def first(self, G: Tensor, rank: int, context: Context) -> Tensor:  # noqa: ARG002
        """See `Rule.first`."""
        return top_left_space(G, rank)

    def refresh(self, S: Tensor, G: Tensor, context: Context) -> Tensor:
        """See `Rule.refresh`."""
        lies, norm = context.lies, context.lies.norm(G)
        if not bool(norm > 0):
            return S.clone()
        (A,) = lies.sum_rows(S.mT @ G)
        A.div_(norm)  # of G / ||G||: fourth powers neither overflow nor vanish
        GA, K = lies.sum_columns(G @ (A.mT / norm), A @ A.mT)
        T = GA.addmm_(S, K, alpha=-1).mul_(2)  # 2 R A^T, (m, r), without forming R
        (squares,) = lies.sum_rows(T.mT @ T)
        values, vectors = torch.linalg.eigh(squares)
        s, v = values[-1].clamp_min(0).sqrt(), vectors[:, -1]
        if s <= _ROUNDING * torch.finfo(G.dtype).eps:
            return S.clone()
        u = T @ v
        (inside,) = lies.sum_rows(S.mT @ u)
        u = u - S @ inside
        (length,) = lies.sum_rows(u.square().sum())
        u = u / length.sqrt().clamp_min(torch.finfo(u.dtype).tiny)
        step_size = context.group["step_size"]
        if step_size == "exact":
            (along,) = lies.sum_rows(G.mT @ (u / norm))
            kept, moved = lies.sum_columns((A.mT @ v).square().sum(), along.square().sum())
            angle = torch.atan2(s, kept - moved) / 2
        else:
            angle = (s * norm**2 * float(step_size)).clamp_max(torch.finfo(s.dtype).max)
        direction = (angle.cos() - 1) * (S @ v) + angle.sin() * u
        return orthonormalized(torch.addr(S, direction, v), lies)

    def needs_all(self, context: Context) -> bool:
        """See `ShippedRule.needs_all`."""
        return context.refresh == 0

    def workspace(self, m: int, n: int, r: int, e: int) -> int:
        """See `ShippedRule.workspace`."""
        return e * max(2 * n * r + m * r + 1, n * r + 3 * m * r + 2 * r * r + 9 * r + m + 3)
