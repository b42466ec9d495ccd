"""A random step of given length along a geodesic of the Grassmannian (GrassWalk, arXiv 2510.01878).

Legend: ``X (m, r)`` Gaussian; ``D = X - S (S^T X)`` horizontal; ``D^T D = V E^2 V^T``; ``eta`` step.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from subspace_lab.optim.rules.base import Context, orthonormalized, top_left_space


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
        X = context.draw(*S.shape).to(S)
        return geodesic(S, torch.addmm(X, S, S.mT @ X, alpha=-1), float(context.group["walk_step"]))


def geodesic(S: Tensor, D: Tensor, angle: float) -> Tensor:
    """``S V cos(eta E) V^T + D V (sin(eta E) / E) V^T``, by the r x r eigenproblem of ``D^T D``.

    Args:
        S: Orthonormal basis (m, r).
        D: Horizontal direction (m, r), ``S^T D = 0``.
        angle: Root-mean-square principal angle of the move, radians.

    Returns:
        The orthonormal basis (m, r) at the end of the move.
    """
    squares, V = torch.linalg.eigh(D.mT @ D)
    E = squares.clamp_min(0).sqrt()
    norm = E.square().sum().sqrt()
    turned = (E * (angle * math.sqrt(S.shape[1]) / norm.clamp_min(torch.finfo(S.dtype).tiny))).clamp_max(math.pi / 2)
    ratio = torch.where(E > 0, turned.sin() / E.clamp_min(torch.finfo(S.dtype).tiny), 0)
    return orthonormalized(S @ ((V * turned.cos()) @ V.mT) + D @ ((V * ratio) @ V.mT))
