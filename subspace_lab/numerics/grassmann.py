"""Geometry of subspaces: principal angles, overlap, and the subspace estimation error with its derivative.

Legend: ``S (m, r)`` orthonormal basis of a subspace; ``C = G G^T`` (m, m) Gram matrix of the gradient.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_STEEP = 0.99995  # the sine above which an arcsin loses more than a factor of 100
_SHALLOW = 0.005  # the sine below which the root of an eigenvalue loses more than a factor of 100


def principal_angles(S1: Float[Tensor, "m r1"], S2: Float[Tensor, "m2 r2"]) -> Float[Tensor, " r"]:
    """Principal angles between the spans of two orthonormal bases, in radians, ascending.

    Of spaces of different dimensions there are ``r = min(r1, r2)`` angles; S2 is the smaller space in what follows.
    Sines are the singular values of the residual ``R = S2 - S1 (S1^T S2)``, cosines those of ``S2^T S1``. An arccos
    returns noise for angles under the square root of the rounding (1e-8 in float64), an arcsin for those as near to
    90 degrees (Björck and Golub 1973, "Numerical methods for computing angles between linear subspaces"). Each SVD is
    computed only where it is needed: an arcsin loses a factor of ``tan(theta)``, so that the cosines serve from 89.4
    degrees on; the roots of the eigenvalues of ``R^T R``, the cheapest way to the sines, lose ``1 / (2 sin(theta))``,
    so that the SVD of R, by the triangle of its QR, serves where an angle lies below 0.3 degrees. Cheaper than
    `scipy.linalg.subspace_angles`, which first orthonormalizes both inputs by an SVD: here they must already be
    orthonormal.

    Args:
        S1: Orthonormal basis (m, r1).
        S2: Orthonormal basis (m, r2).

    Returns:
        The r angles in radians, in [0, pi/2], ascending, exact to a hundred roundings of the inputs' dtype.

    Raises:
        ValueError: If the bases are not of the same m.

    >>> import math
    >>> line = lambda a: torch.tensor([[math.cos(a)], [math.sin(a)]], dtype=torch.float64)
    >>> bool(abs(principal_angles(line(0.0), line(1e-9)) - 1e-9) < 1e-15)
    True
    """
    S1, S2 = _larger_first(S1, S2)
    M = S2.mT @ S1  # (r, r1)
    residual = torch.addmm(S2.mT, M, S1.mT, alpha=-1).mT  # (m, r), by columns in memory as LAPACK wants it
    sines = torch.linalg.eigvalsh(residual.mT @ residual).clamp_(0, 1).sqrt_()  # ascending
    if sines.numel() and bool(sines[0] < _SHALLOW):
        triangle = torch.geqrf(residual)[0][: S2.shape[1]].triu()  # R of its QR
        sines = torch.linalg.svdvals(triangle).clamp_max_(1).flip(0)
    angles: Tensor = sines.asin()
    if angles.numel() and bool(sines[-1] > _STEEP):
        cosines = torch.linalg.svdvals(M).clamp_max_(1)  # descending
        angles = torch.where(sines > _STEEP, cosines.acos(), angles)
    return angles


def overlap(S1: Float[Tensor, "m r1"], S2: Float[Tensor, "m2 r2"]) -> float:
    """``||S1^T S2||_F^2 / min(r1, r2)``: the mean squared cosine of the principal angles (arXiv 2401.06604).

    Two independent uniformly random subspaces overlap by ``max(r1, r2) / m`` on average (`null_overlap`).

    Args:
        S1: Orthonormal basis (m, r1).
        S2: Orthonormal basis (m, r2).

    Returns:
        A number in [0, 1], the same in either order.

    Raises:
        ValueError: If the bases are not of the same m.
    """
    S1, S2 = _larger_first(S1, S2)
    return float((S1.mT @ S2).square().sum()) / S2.shape[1]


def null_overlap(r1: int, r2: int, m: int) -> float:
    """The mean `overlap` of two independent uniformly random subspaces: ``max(r1, r2) / m``.

    Args:
        r1: Dimension of the first one, at least 1; m where it is larger.
        r2: Dimension of the second one.
        m: Dimension of the whole space.

    Returns:
        A fraction in (0, 1].

    >>> null_overlap(4, 16, 64)
    0.25
    """
    return min(max(r1, r2), m) / m


def _larger_first(S1: Tensor, S2: Tensor) -> tuple[Tensor, Tensor]:
    """The two bases, those of one dimension in the order given."""
    if S1.shape[0] != S2.shape[0]:
        raise ValueError(f"bases of one space are needed, got {tuple(S1.shape)} and {tuple(S2.shape)}")
    return (S2, S1) if S2.shape[1] > S1.shape[1] else (S1, S2)


def subspace_error(C: Float[Tensor, "m m"], S: Float[Tensor, "m r"]) -> float:
    """The subspace estimation error ``F(S) = min_A ||S A - G||_F^2 = tr(C) - tr(S^T C S)`` (arXiv 2502.01586).

    Args:
        C: Gram matrix (m, m) of the gradient.
        S: Orthonormal basis (m, r).

    Returns:
        The squared Frobenius norm of the residual.
    """
    return float(C.trace() - (S * (C @ S)).sum())


def subspace_error_tangent(S: Float[Tensor, "m r"], CS: Float[Tensor, "m r"]) -> Float[Tensor, "m r"]:
    """``dF/dS = -2 R A^T = -2 (I - S S^T) C S``, the Grassmann gradient of the subspace error (arXiv 2502.01586).

    It is tangent by construction (``S^T dF/dS = 0``) and zero where S spans singular vectors of G, its own top-r
    space among them, whatever the curvature there: the values say something at a stale basis only. At r = m there is
    no complement and the tangent is exactly zero.

    Args:
        S: Orthonormal basis (m, r).
        CS: The product ``C @ S`` (m, r).

    Returns:
        The tangent (m, r).
    """
    if S.shape[0] == S.shape[1]:
        return torch.zeros_like(CS)
    return -2 * (CS - S @ (S.mT @ CS))
