"""A random step of given length along a geodesic of the Grassmannian (GrassWalk, arXiv 2510.01878).

Legend: ``X (m, r)`` Gaussian; ``B = S^T X``; ``D = X - S B`` horizontal; ``eta`` step; ``Z = eta^2 D^T D (r, r)``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from subspace_lab.optim.rules.base import Context, top_left_space

_SMALL = 1.0  # square of the angle, in radians, up to which a few terms of the series are exact


class Walk:
    """Starts at the top-r space of the first gradient; every refresh turns by ``walk_step``.

    ``walk_step`` is the root-mean-square principal angle of one move in radians, ``eta = walk_step sqrt(r) / ||D||_F``,
    so that one number means the same in every layer; single angles beyond pi/2 are clipped there.
    """

    options: tuple[str, ...] = ("walk_step",)

    def first(self, G: Tensor, rank: int, context: Context) -> Tensor:  # noqa: ARG002
        """See `Rule.first`."""
        return top_left_space(G, rank)

    def refresh(self, S: Tensor, G: Tensor, context: Context) -> Tensor:  # noqa: ARG002
        """See `Rule.refresh`."""
        return geodesic(S, context.draw(*S.shape).to(S), float(context.group["walk_step"]))


def geodesic(S: Tensor, X: Tensor, angle: float) -> Tensor:
    """``S cos(Z^(1/2)) + eta D sin(Z^(1/2)) Z^(-1/2)``: as far as ``angle`` along the horizontal part D of X.

    Neither D nor its singular vectors are formed: ``D = X - S B`` turns the move into ``S K + X L``, K and L (r, r).
    S is taken orthonormal to rounding on the way, by one Newton-Schulz step that is an (r, r) factor too, so that
    rounding does not add up over moves.

    Args:
        S: Orthonormal basis (m, r), up to an error whose square is rounding.
        X: Direction (m, r), of which the horizontal part counts.
        angle: Root-mean-square principal angle of the move, radians.

    Returns:
        The orthonormal basis (m, r) at the end of the move.
    """
    repair = (S.mT @ S).mul_(-0.5)
    repair.diagonal().add_(1.5)
    B = repair @ (S.mT @ X)
    Z = torch.addmm(X.mT @ X, B.mT, B, alpha=-1)
    eta = angle * torch.sqrt(S.shape[1] / Z.trace().clamp_min(torch.finfo(S.dtype).tiny))
    cosine, sinc = _cosine_and_sinc(Z.mul_(eta * eta))
    L = eta * sinc
    K = repair @ torch.addmm(cosine, B, L, alpha=-1)
    return (S @ K).addmm_(X, L)


def _cosine_and_sinc(Z: Tensor) -> tuple[Tensor, Tensor]:
    """``cos(Z^(1/2))`` and ``sin(Z^(1/2)) Z^(-1/2)`` of a positive semi-definite Z (r, r).

    For small angles by their Taylor series in Z, which are products only; else by the eigenvectors of Z, angles beyond
    pi/2 clipped there.

    Returns:
        Cosine and sinc (r, r).
    """
    square = Z @ Z
    bound = float(torch.linalg.matrix_norm(square)) ** 0.5  # no eigenvalue is larger
    if bound <= _SMALL:
        terms = next(k for k in range(2, 99) if bound**k / math.factorial(2 * k) < torch.finfo(Z.dtype).eps / 4)
        cosine, sinc = (_series(Z, square, terms, odd) for odd in (0, 1))
        return cosine, sinc
    squares, V = torch.linalg.eigh(Z)
    E = squares.clamp_min(0).sqrt()
    turned = E.clamp_max(math.pi / 2)
    ratio = torch.where(E > 0, turned.sin() / E.clamp_min(torch.finfo(Z.dtype).tiny), 1)
    return (V * turned.cos()) @ V.mT, (V * ratio) @ V.mT


def _series(Z: Tensor, square: Tensor, terms: int, odd: int) -> Tensor:
    """``sum_k (-Z)^k / (2k + odd)!`` over the first terms, two of them per product."""
    total: Tensor | None = None
    for k in reversed(range(0, terms, 2)):
        pair = Z * (-1 / math.factorial(2 * k + 2 + odd))
        pair.diagonal().add_(1 / math.factorial(2 * k + odd))
        total = pair if total is None else pair.addmm_(square, total)
    assert total is not None
    return total
