"""Bases that are drawn without a look at the gradient: at every refresh, or at some in the place of another rule's."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from subspace_lab.optim.rules.base import QR, Context, Refreshed
from subspace_lab.optim.rules.top_space import Svd
from subspace_lab.optim.rules.walk import Walk

_GAP = 6  # of sqrt(m) and sqrt(r), from which on no Gaussian matrix that is ever drawn is badly conditioned


class Jump:
    """Q of the QR of a Gaussian matrix X (m, r) (GrassJump, arXiv 2510.01878).

    Uniform on the Grassmannian, because the Gaussian knows no direction. It is computed by the Cholesky factor of
    ``X^T X`` where that loses no digits: the singular values of X lie within ``sqrt(m) -+ sqrt(r)``, and the smallest
    falls short by t with a probability below ``exp(-t^2 / 2)`` (Davidson and Szarek 2001).
    """

    def needs_all(self, context: Context) -> bool:  # noqa: ARG002
        """See `ShippedRule.needs_all`."""
        return False

    def first(self, G: Tensor, rank: int, context: Context) -> Tensor:
        """See `Rule.first`."""
        m = context.lies.num_rows(G)
        if not is_well_conditioned(m, rank):
            return context.lies.own_rows(torch.linalg.qr(context.draw(m, rank).to(G)).Q)
        X = context.normal(G, rank)
        (K,) = context.lies.sum_rows(X.mT @ X)
        solved: Tensor = torch.linalg.solve_triangular(torch.linalg.cholesky(K, upper=True), X, upper=True, left=False)
        return solved

    def refresh(self, S: Tensor, G: Tensor, context: Context) -> Tensor:
        """See `Rule.refresh`."""
        return self.first(G, S.shape[1], context)

    def workspace(self, m: int, n: int, r: int, e: int) -> int:  # noqa: ARG002
        """See `ShippedRule.workspace`."""
        return e * (2 * m * r + r * r + QR * r)


class Coordinates:
    """r rows of the identity, every set of them equally likely, as FRUGAL (arXiv 2411.07837) chooses its rows.

    A random basis without any QR. Against `Jump`, whose bases are uniform on the Grassmannian, it sees single rows of
    the gradient instead of mixtures of all of them. On isotropic noise both hold r/m of the energy; where few rows hold
    most of a gradient, how much this one holds varies far more from draw to draw.
    """

    def needs_all(self, context: Context) -> bool:  # noqa: ARG002
        """See `ShippedRule.needs_all`."""
        return False

    def first(self, G: Tensor, rank: int, context: Context) -> Tensor:
        """See `Rule.first`."""
        m = context.lies.num_rows(G)
        chosen = context.draw(m, rank)[:, 0].argsort()[:rank].sort().values
        return context.lies.own_rows(torch.eye(m, dtype=G.dtype, device=G.device)[:, chosen.to(G.device)])

    def refresh(self, S: Tensor, G: Tensor, context: Context) -> Tensor:
        """See `Rule.refresh`."""
        return self.first(G, S.shape[1], context)

    def workspace(self, m: int, n: int, r: int, e: int) -> int:  # noqa: ARG002
        """See `ShippedRule.workspace`."""
        return e * (m * m + m * r) + 24 * m


class GoloreRule(Svd):
    """The own top-r space until ``random_after`` steps were taken, then random bases (GoLore, arXiv 2410.11289)."""

    options: tuple[str, ...] = ("random_after",)

    def needs_all(self, context: Context) -> bool:
        """See `ShippedRule.needs_all`."""
        random_after = context.group["random_after"]
        return context.refresh == 0 or random_after is None or context.t <= int(random_after)

    def refresh(self, S: Tensor, G: Tensor, context: Context) -> Tensor:
        """See `Rule.refresh`."""
        return super().refresh(S, G, context) if self.needs_all(context) else Jump().refresh(S, G, context)


class Hybrid(Walk):
    """Every ``jump_every``-th refresh is a jump, the others are walks.

    Not published: this project's own answer to a question that reviewers of arXiv 2510.01878 asked.
    """

    options: tuple[str, ...] = ("walk_step", "jump_every")

    def refresh(self, S: Tensor, G: Tensor, context: Context) -> Refreshed:
        """See `Rule.refresh`."""
        jump = (int(context.refresh) % int(context.group["jump_every"])) == 0
        return Jump().refresh(S, G, context) if jump else super().refresh(S, G, context)


def is_well_conditioned(m: int, rank: int) -> bool:
    """Whether the Cholesky factor of ``X^T X`` loses no digits of any Gaussian X (m, r) that is ever drawn."""
    return math.sqrt(m) - math.sqrt(rank) >= _GAP
