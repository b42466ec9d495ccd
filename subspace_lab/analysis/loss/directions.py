"""Where a gradient lies between the loss's sharp directions and its own core and bulk.

Legend: ``g`` gradient of a block (N,), of a matrix ``G`` oriented (m, n); ``S (m, r)`` top-r left singular basis of G;
core ``S S^T G``, bulk the rest; ``V (N, k)`` eigenvectors of the largest eigenvalues, ``P_k = V V^T``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from subspace_lab.analysis.loss.blocks import Block
from subspace_lab.numerics import default_side, flatten, gram, gram_eigh, orient


@dataclass(frozen=True)
class Core:
    """The core subspace of a block's gradient: of each of its matrices the top-r left singular space.

    Attributes:
        bases: ``S`` (m, r) of each parameter, None for vectors.
        dims: Dimensions of the core, ``sum r n`` over the matrices.
        size: Dimensions of the matrices, ``sum m n``.
    """

    bases: tuple[Tensor | None, ...]
    dims: int
    size: int


def usual_rank(block: Block) -> int:
    """A quarter of the smallest side of its matrices, at least 1: of one matrix m/4."""
    sides = [min(flatten(p).shape) for p in block.parameters if p.ndim >= 2]
    return max(1, sorted(sides)[(len(sides) - 1) // 2] // 4) if sides else 1


def core_of(block: Block, g: Tensor, rank: int) -> Core:
    """The core subspace of a gradient.

    Args:
        block: Its parameters are taken as one vector (N,).
        g: Its gradient (N,).
        rank: r, of each matrix; matrices of fewer rows are core altogether.

    Returns:
        The bases, float32 or float64 as g is.
    """
    bases: list[Tensor | None] = []
    dims = size = 0
    for piece in block.pieces(g):
        if piece.ndim < 2:
            bases.append(None)
            continue
        G = flatten(piece)
        side = default_side(*G.shape)
        m, n = orient(G, side).shape
        r = min(rank, m)
        bases.append(gram_eigh(gram(G, side).double(), r)[1].to(G.dtype))
        dims, size = dims + r * n, size + m * n
    return Core(tuple(bases), dims, size)


def core_part(block: Block, v: Tensor, core: Core) -> Tensor:
    """The part of a vector (N,) in the core subspace, ``S S^T`` of each of its matrices; zero for vectors."""
    part = torch.zeros_like(v)
    for basis, piece, out in zip(core.bases, block.pieces(v), block.pieces(part), strict=True):
        if basis is not None:
            side = default_side(*flatten(piece).shape)
            orient(flatten(out), side).copy_(basis @ (basis.mT @ orient(flatten(piece), side)))
    return part


def matrix_part(block: Block, v: Tensor) -> Tensor:
    """A vector (N,) with zeros in the place of everything that is not a matrix."""
    if all(p.ndim >= 2 for p in block.parameters):
        return v
    part = v.clone()
    for parameter, piece in zip(block.parameters, block.pieces(part), strict=True):
        if parameter.ndim < 2:
            piece.zero_()
    return part


def core_overlap(block: Block, V: Tensor, core: Core) -> float:
    """``1/k sum_i ||core part of v_i||^2``: the share of the dominant Hessian space in the gradient's core subspace.

    Args:
        block: Its parameters are taken as one vector (N,).
        V: Orthonormal columns (N, k).
        core: From `core_of`.

    Returns:
        In [0, 1]; a random space of any dimension gives ``dims / N``.
    """
    total = 0.0
    for v in V.mT:
        for basis, piece in zip(core.bases, block.pieces(v), strict=True):
            if basis is not None:
                oriented = orient(flatten(piece), default_side(*flatten(piece).shape))
                total += float((basis.mT @ oriented).square().sum())
    return total / V.shape[1]


def dominant_share(g: Tensor, V: Tensor) -> tuple[float, float]:
    """``chi_k = ||P_k g|| / ||g||`` and the bulk's ``||(I - P_k) g|| / ||g||`` (arXiv 2405.16002).

    Args:
        g: Gradient (N,).
        V: Orthonormal columns (N, k).

    Returns:
        Both, their squares add up to one; NaN where the gradient is zero.
    """
    norm = float(torch.linalg.vector_norm(g))
    if norm == 0:
        return float("nan"), float("nan")
    inside = V.mT @ g
    outside = g - V @ inside
    return float(torch.linalg.vector_norm(inside)) / norm, float(torch.linalg.vector_norm(outside)) / norm
