"""What becomes of the part of the gradient outside of the subspace, the bulk.

Legend: G (m, n); ``S (m, r)``; ``A = S^T G`` and O Adam's direction (r, n); ``phi (n,)`` column factors;
``L = recovery_scale (G - S A) diag(phi)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subspace_lab.optim.bases import Basis
from subspace_lab.optim.matrices import cast, exact_dtype, squared_columns
from subspace_lab.optim.whole import WHOLE, Whole

_ROUNDINGS = 8  # a column whose core is below this many roundings of the column has no core but noise
_RESOLUTION = 64  # ||L||^2 below this many roundings of ||G diag(phi)||^2 cannot be distinguished from zero
_RESOLUTION_BFLOAT16 = 2.0**-10  # the same where S and A are rounded to bfloat16
FEEDBACK = {"feedback", "residual"}  # what the projection loses is kept for the next gradient


@dataclass(frozen=True)
class Scaling:
    """Column-wise factors after the limiter.

    Attributes:
        phi: Factors of the columns (n,), limiter and scale included.
        norm: Norm of what they scale, after limiting; 0-dimensional.
        applied: The limiter's factor, 0-dimensional; 1 where it did not act.
    """

    phi: Tensor
    norm: Tensor
    applied: Tensor


def core_threshold(products: torch.dtype) -> float:
    """Below which share of a column its core is rounding: 8 epsilon, or for bfloat16, coarse as it is, one epsilon."""
    eps = torch.finfo(products).eps
    return eps if products == torch.bfloat16 else _ROUNDINGS * eps


def finite_factors(squares: Tensor, products: torch.dtype) -> Tensor:
    """Squared factors, in place, that stay numbers in the dtype of the products: 2^126 at most, in float64 2^1022.

    A state of more digits than the products (float64 for float32 parameters) holds squares that these cannot.

    Args:
        squares: Squared factors; 0/0 counts as 0.
        products: The dtype of the products.

    Returns:
        The factors.
    """
    most = float(1 / torch.finfo(products).tiny)
    squares.nan_to_num_(nan=0.0, posinf=most)
    return squares if squares.dtype == exact_dtype(products) else squares.clamp_max_(most)


def resolution(products: torch.dtype, exact: torch.dtype) -> float:
    """Below which share of ``||G diag(phi)||^2`` the bulk's is rounding: A computed in one dtype, kept in another."""
    return _RESOLUTION * torch.finfo(exact).eps if products != torch.bfloat16 else _RESOLUTION_BFLOAT16


def _finite(square: Tensor) -> Tensor:
    """A squared norm, in place; one that overflowed is the largest number."""
    most = torch.finfo(square.dtype).max
    return square.nan_to_num_(nan=most, posinf=most)


def column_factors(columns: Tensor, core: Tensor, O: Tensor, products: torch.dtype) -> Tensor:
    """``phi_j^2 = |O_:j|^2 / |A_:j|^2``, 0 where the core misses the column.

    Without the threshold a column that the core misses gets factors of 1e5 and more. A factor that cannot be squared
    (a column that was ordinary and is now below 1e-19) counts as 2^63, or as 2^511 where the products are in float64.

    Args:
        columns: ``|G_:j|^2`` (n,).
        core: ``|A_:j|^2`` (n,).
        O: Adam's direction (r, n).
        products: In which dtype the core was computed.

    Returns:
        Squared factors (n,).
    """
    squares = squared_columns(O).div_(core).masked_fill_(core <= columns * core_threshold(products) ** 2, 0)
    return finite_factors(squares, products)


def scaled_bulk(
    columns: Tensor,
    A: Tensor,
    O: Tensor,
    *,
    recovery_scale: float,
    zeta: float | None,
    last_norm: Tensor,
    products: torch.dtype,
    lies: Whole = WHOLE,
) -> Scaling:
    """Scale each column of the bulk as Adam scaled that column of the core (Fira, arXiv 2410.01623).

    The limiter lets ``||L||_F`` grow by ``zeta`` per step. The columns of G - S A are orthogonal to S, so
    ``||L||^2 = sum_j phi_j^2 (|G_:j|^2 - |A_:j|^2)`` and no residual matrix is formed. A difference below its own
    resolution counts as zero: a limiter that took it for a norm would pin recovery at it. In bfloat16, where S and A
    are rounded, the norm is good to 2 % with a hundredth of the energy in the bulk and to 10 % with a thousandth;
    below that it is rounding.

    Args:
        columns: ``|G_:j|^2`` (n,).
        A: Core (r, n).
        O: Adam's direction (r, n).
        recovery_scale: Factor on the bulk.
        zeta: Largest growth per step, or None for any.
        last_norm: ``||L||_F`` of the last step, 0 for none; 0-dimensional.
        products: In which dtype A was computed.
        lies: How the columns lie over processes.

    Returns:
        Factors and norms.
    """
    columns, core = cast(columns, A.dtype), squared_columns(A)
    squares = column_factors(columns, core, O, products)
    total, inside = lies.sum_moments(torch.dot(squares, columns), torch.dot(squares, core))
    square = total - inside
    phi = squares.sqrt_()
    norm = _finite(square.masked_fill_(square <= total * resolution(products, A.dtype), 0)).sqrt_()
    if recovery_scale != 1:
        norm.mul_(recovery_scale)
        phi.mul_(recovery_scale)
    applied = _limiter(norm, zeta, last_norm)
    return Scaling(phi.mul_(applied), norm.mul_(applied), applied)


def largest_growth(group: Mapping[str, Any], t: int, before: int) -> float | None:
    """By what factor a norm may grow in this step: zeta, unless norms are compared before bias correction.

    Adam's bias correction multiplies a direction by ``c_t = sqrt(1 - b2^t) / (1 - b1^t)``. With
    ``limiter="before_bias_correction"`` it is ``||L|| / c_t`` that may grow by zeta: ``||L||`` then by
    ``zeta c_t / c_(t-1)``.

    Args:
        group: With ``zeta``, ``limiter`` and ``betas``.
        t: Adam steps since the moments were zero, this one included.
        before: The same of the step before, 0 for none.

    Returns:
        The factor, None for any.
    """
    zeta: float | None = group["zeta"]
    if zeta is None or before == 0 or group["limiter"] != "before_bias_correction":
        return zeta
    b1, b2 = group["betas"]
    now, last = (math.sqrt(1 - b2**age) / (1 - b1**age) for age in (t, before))
    return float(zeta * now / last)


def check_limiter(group: Mapping[str, Any]) -> None:
    """Refuse a setting of the limiter where it is switched off; raises a ValueError of one line."""
    if group.get("zeta", 1) is None and group.get("limiter") == "before_bias_correction":
        raise ValueError(
            f"limiter={group['limiter']!r} has no effect with zeta=None, which switches the limiter off; leave one out"
        )


def _limiter(norm: Tensor, zeta: float | None, last_norm: Tensor) -> Tensor:
    """The factor that keeps a norm at most zeta times the last one, if there was one."""
    if zeta is None:
        return torch.ones_like(norm)
    limited = (
        (cast(last_norm, norm.dtype) * zeta).div_(norm).clamp_max_(1)
    )  # 0/0 where nothing was recovered: not taken below
    return limited.masked_fill_(last_norm == 0, 1)


def limited_columns(
    columns: Tensor, phi: Tensor, zeta: float | None, last_norm: Tensor, lies: Whole = WHOLE
) -> Scaling:
    """Column factors of a whole gradient with its norm limited (APOLLO, arXiv 2412.05270).

    Args:
        columns: ``|G_:j|^2`` (n,).
        phi: Factors (n,), or one factor.
        zeta: Largest growth per step, or None for any.
        last_norm: Norm of the last step, 0 for none; 0-dimensional.
        lies: How the columns lie over processes.

    Returns:
        Factors and norms.
    """
    (square,) = lies.sum_moments((phi * phi * columns).sum())
    norm = _finite(square).sqrt_()
    applied = _limiter(norm, zeta, last_norm)
    return Scaling(phi * applied, norm * applied, applied)


def add_signs(target: Tensor, G: Tensor, S: Basis, A: Tensor, columns: Tensor, size: float) -> None:
    """``target += size sign(G - S A)`` block by block, 0 where an entry is rounding (FRUGAL, arXiv 2411.07837).

    Args:
        target: Matrix (m, n), changed in place.
        G: Gradient (m, n).
        S: Orthonormal basis (m, r).
        A: Core (r, n), in the dtype of G.
        columns: ``|G_:j|^2`` (n,).
        size: Factor.
    """
    smallest = torch.finfo(columns.dtype).tiny ** 0.5  # below, squares of a column's entries have lost their digits
    rounding = (columns.sqrt().clamp_min_(smallest) * core_threshold(G.dtype)).to(G.dtype)
    for where, R in S.residuals(G, A):
        target[where].add_(R.masked_fill_(R.abs() <= rounding[where[1]], 0).sign_(), alpha=size)
