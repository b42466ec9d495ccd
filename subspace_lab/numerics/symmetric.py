"""Symmetric matrices at half the bytes: the rectangular full packed format of LAPACK (Gustavson et al., LAWN 199).

The lower triangle of an (m, m) matrix is cut after column ``h = ceil(m / 2)``; the triangle that is left over at the
lower right is folded, transposed, into the empty corner above the trapezoid, so that the result is a plain rectangle
and packing is two block copies, with no index arrays.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def packed_shape(m: int) -> tuple[int, int]:
    """The shape of a packed (m, m) matrix; its product is m (m + 1) / 2.

    Args:
        m: Rows of the symmetric matrix.

    Returns:
        The shape of the rectangle.

    >>> packed_shape(4), packed_shape(5)
    ((5, 2), (5, 3))
    """
    return m + 1 - m % 2, (m + 1) // 2


def pack_symmetric(C: Float[Tensor, "m m"]) -> Float[Tensor, "p h"]:
    """The lower triangle of a symmetric matrix as a rectangle of m (m + 1) / 2 numbers.

    Args:
        C: A symmetric matrix (m, m); only its lower triangle and the transpose of its lower right block are read.

    Returns:
        The packed matrix, of shape ``packed_shape(m)``.
    """
    m, even = C.shape[0], 1 - C.shape[0] % 2
    h = (m + 1) // 2
    packed = C.new_zeros(packed_shape(m))
    packed[even:] = C[:, :h].tril()
    packed[: m - h, 1 - even :] += C[h:, h:].triu()
    return packed


def unpack_symmetric(packed: Float[Tensor, "p h"]) -> Float[Tensor, "m m"]:
    """The symmetric matrix that `pack_symmetric` packed, bit for bit.

    Args:
        packed: What `pack_symmetric` returned.

    Returns:
        The full matrix (m, m).
    """
    rows, h = packed.shape
    m = 2 * h if rows == 2 * h + 1 else 2 * h - 1
    even = 1 - m % 2
    C = packed.new_zeros(m, m)
    C[:, :h] = packed[even:].tril()
    C[h:, h:] = packed[: m - h, 1 - even :].triu().mT
    return torch.where(torch.ones_like(C, dtype=torch.bool).tril(), C, C.mT)
