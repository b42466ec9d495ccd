"""The gradient's own top-r left space: computed at every refresh, followed by products, or kept from the first step."""

from __future__ import annotations

import torch
from torch import Tensor

from subspace_lab.optim.rules.base import QR, Context, of_ordinary_size, top_left_space, top_left_space_bytes


class Svd:
    """Top-r left singular vectors of G (GaLore, arXiv 2403.03507), with the signs that agree with the old basis.

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

    def needs_all(self, context: Context) -> bool:  # noqa: ARG002
        """See `ShippedRule.needs_all`."""
        return True

    def workspace(self, m: int, n: int, r: int, e: int) -> int:  # noqa: ARG002
        """See `ShippedRule.workspace`."""
        return top_left_space_bytes(m, n, r)


class Power:
    """One block power iteration from the last basis (LDAdam, arXiv 2410.16103).

    ``S+ = Q of QR(B B^T S)`` with ``B = rho S Mh + (1 - rho) G``: follows the top-r space by products alone.
    """

    options: tuple[str, ...] = ("rho",)

    def first(self, G: Tensor, rank: int, context: Context) -> Tensor:  # noqa: ARG002
        """See `Rule.first`."""
        return top_left_space(G, rank)

    def refresh(self, S: Tensor, G: Tensor, context: Context) -> Tensor:
        """See `Rule.refresh`."""
        assert context.moment is not None
        rho, lies = float(context.group["rho"]), context.lies
        (mean,) = lies.from_moments(context.moment.mean(G.dtype))
        (C,) = lies.sum_rows(  # B^T S (n, r), without forming B; the mean is added by each of those that add up
            torch.addmm(mean.mT, G.mT, S, beta=rho / lies.num_row_parts, alpha=1 - rho)
        )
        C = of_ordinary_size(C, lies)
        (BC,) = lies.sum_columns(torch.addmm(S @ (mean @ C), G, C, beta=rho, alpha=1 - rho))
        BC = of_ordinary_size(lies.all_rows(BC))
        if not bool(BC.any()):
            return S.clone()
        return lies.own_rows(torch.linalg.qr(BC).Q)

    def needs_all(self, context: Context) -> bool:
        """See `ShippedRule.needs_all`."""
        return context.refresh == 0

    def workspace(self, m: int, n: int, r: int, e: int) -> int:
        """See `ShippedRule.workspace`."""
        return e * (2 * n * r + 2 * m * r + r * r + QR * r)


class Frozen:
    """Keeps the top-r left space of the first gradient for good: the null that every other rule must beat."""

    def first(self, G: Tensor, rank: int, context: Context) -> Tensor:  # noqa: ARG002
        """See `Rule.first`."""
        return top_left_space(G, rank)

    def refresh(self, S: Tensor, G: Tensor, context: Context) -> Tensor:  # noqa: ARG002
        """See `Rule.refresh`."""
        return S.clone()

    def needs_all(self, context: Context) -> bool:
        """See `ShippedRule.needs_all`."""
        return context.refresh == 0

    def workspace(self, m: int, n: int, r: int, e: int) -> int:  # noqa: ARG002
        """See `ShippedRule.workspace`."""
        return e * m * r
