"""A random step of given length along a geodesic of the Grassmannian (GrassWalk, arXiv 2510.01878).

Legend: ``X (m, r)`` Gaussian; ``B = S^T X``; ``D = X - S B`` horizontal; ``eta`` step; ``Z = eta^2 D^T D (r, r)``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from subspace_lab.optim.rules.base import Context, Refreshed, orthonormalized, top_left_space
from subspace_lab.optim.whole import WHOLE, Whole

_SMALL = 1.0  # square of the angle, in radians, up to which a few terms of the series are exact
_OUTSIDE = 1 / 16  # of the squares of X in D, below which their difference has lost digits
_REPAIR_EVERY = 8  # moves; the rounding of so many is far below what single precision bases are off by anyway


class Walk:
    """Starts at the top-r space of the first gradient; every refresh turns by ``walk_step``.

    ``walk_step`` is the root-mean-square principal angle of one move in radians, ``eta = walk_step sqrt(r) / ||D||_F``,
    so that one number means the same in every layer; single angles beyond pi/2 are clipped there.
    """

    options: tuple[str, ...] = ("walk_step",)

    def first(self, G: Tensor, rank: int, context: Context) -> Tensor:  # noqa: ARG002
        """See `Rule.first`."""
        return top_left_space(G, rank)

    def refresh(self, S: Tensor, G: Tensor, context: Context) -> Refreshed:  # noqa: ARG002
        """See `Rule.refresh`; rounding adds up over a few moves only, then the basis is made orthonormal again."""
        if context.refresh % _REPAIR_EVERY == 0:
            S = orthonormalized(S, context.lies)
        return geodesic(S, context.normal(S, S.shape[1]), float(context.group["walk_step"]), context.lies)

    def needs_all(self, context: Context) -> bool:
        """See `ShippedRule.needs_all`."""
        return context.refresh == 0

    def workspace(self, m: int, n: int, r: int, e: int) -> int:  # noqa: ARG002
        """See `ShippedRule.workspace`; of a usual length. Where an angle passes a radian a walk holds up to 5 m r."""
        return e * (2 * m * r + 7 * r * r + 1)


def geodesic(S: Tensor, X: Tensor, angle: float, lies: Whole = WHOLE) -> tuple[Tensor, Tensor]:
    """``S cos(Z^(1/2)) + eta D sin(Z^(1/2)) Z^(-1/2)``: as far as ``angle`` along the horizontal part D of X.

    As long as no single angle passes a radian and S leaves room, neither D nor its singular vectors are formed:
    ``D = X - S B`` turns the move into ``S (cos - B L) + X L`` with cos and L (r, r) from Taylor series. D is
    orthogonal to S, so that cos, which is symmetric, is the rotation between the two bases as well.

    Args:
        S: Orthonormal basis (m, r).
        X: Direction (m, r), of which the horizontal part counts.
        angle: Root-mean-square principal angle of the move, radians.
        lies: How the rows of S and X lie over processes.

    Returns:
        The orthonormal basis (m, r) at the end of the move, and its product with the old one (r, r).
    """
    B, squares = lies.sum_rows(S.mT @ X, X.mT @ X)
    Z = torch.addmm(squares, B.mT, B, alpha=-1)
    outside = Z.trace()
    eta = angle * torch.sqrt(S.shape[1] / outside.clamp_min(torch.finfo(S.dtype).tiny))
    square = Z.mul_(eta * eta) @ Z
    bound = float(torch.linalg.matrix_norm(square)) ** 0.5  # no eigenvalue is larger
    if not (bound <= _SMALL and bool(outside > _OUTSIDE * squares.trace())):  # NaN, by overflow, is neither
        return _far(S, torch.addmm(X, S, B, alpha=-1), angle, lies)
    terms = next(k for k in range(2, 99) if bound**k / math.factorial(2 * k) < torch.finfo(Z.dtype).eps / 4)
    cosine, sinc = (_series(Z, square, terms, odd) for odd in (0, 1))
    L = sinc.mul_(eta)
    return (S @ torch.addmm(cosine, B, L, alpha=-1)).addmm_(X, L), cosine


def _far(S: Tensor, D: Tensor, angle: float, lies: Whole) -> tuple[Tensor, Tensor]:
    """The same move by ``D^T D = V E^2 V^T``, angles beyond pi/2 clipped there.

    With r > m/2, 2r - m directions have nowhere to go: what D has along them is rounding. Directions whose E^2 is
    rounding stay where they are.

    Returns:
        The orthonormal basis (m, r) at the end of the move, and its product with the old one (r, r).
    """
    (K,) = lies.sum_rows(D.mT @ D)
    squares, V = torch.linalg.eigh(K)
    moves = squares > squares[-1] * (S.shape[1] * torch.finfo(S.dtype).eps)
    E = squares.where(moves, 1).sqrt()
    rms = (squares.where(moves, 0).sum() / S.shape[1]).sqrt()
    turned = (E * (angle / rms)).clamp_max(math.pi / 2).where(moves, 0)
    cosine = (V * turned.cos()) @ V.mT
    return orthonormalized((S @ cosine).addmm_(D, (V * (turned.sin() / E)) @ V.mT), lies), cosine


def _series(Z: Tensor, square: Tensor, terms: int, odd: int) -> Tensor:
    """``sum_k (-Z)^k / (2k + odd)!`` over the first terms, two of them per product."""
    total: Tensor | None = None
    for k in reversed(range(0, terms, 2)):
        pair = Z * (-1 / math.factorial(2 * k + 2 + odd))
        pair.diagonal().add_(1 / math.factorial(2 * k + odd))
        total = pair if total is None else pair.addmm_(square, total)
    assert total is not None
    return total
