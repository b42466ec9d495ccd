"""Which side of a gradient the subspace lives on.

Legend: ``G`` oriented gradient (m, n) with ``m <= n`` unless the side is forced; ``C = G G^T`` (m, m).
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

Side = Literal["left", "right"]


def default_side(rows: int, cols: int) -> Side:
    """The side with the smaller Gram matrix: ``"left"`` when rows <= cols (square ones too), else ``"right"``.

    Args:
        rows: Rows of the parameter.
        cols: Columns of the parameter, all dimensions but the first multiplied.

    Returns:
        The side whose basis vectors have ``min(rows, cols)`` entries.

    >>> default_side(512, 1376), default_side(512, 512), default_side(1376, 512)
    ('left', 'left', 'right')
    """
    return "left" if rows <= cols else "right"


def flatten(gradient: Tensor) -> Float[Tensor, "rows cols"]:
    """A gradient as a matrix: the first dimension by all the others (a convolution becomes (out, in*k*k)).

    Args:
        gradient: A tensor of at least two dimensions.

    Returns:
        A view (rows, cols) where the memory layout allows one.
    """
    return gradient.flatten(1)


def orient(gradient: Float[Tensor, "rows cols"], side: Side) -> Float[Tensor, "m n"]:
    """``G`` oriented so that the subspace is one of its left singular spaces.

    Args:
        gradient: The gradient as a matrix (rows, cols).
        side: ``"left"`` leaves it as it is, ``"right"`` transposes it (a view, no copy).

    Returns:
        The oriented gradient (m, n).
    """
    return gradient if side == "left" else gradient.mT


def gram(gradient: Float[Tensor, "rows cols"], side: Side) -> Float[Tensor, "m m"]:
    """``C = G G^T`` of the oriented gradient: one GEMM, and all that a left-subspace quantity depends on.

    Singular values, top-k bases, the energy in any subspace and the curvature tangent are functions of ``C`` alone;
    it adds over shards of columns. Squaring costs half of the digits: in float32 singular values below 1e-3 of the
    largest are not to be trusted (0.4 % off at 1e-3, 6 % at 3e-4), energies are. Half-precision gradients are
    multiplied in float32.

    Args:
        gradient: The gradient as a matrix (rows, cols), any floating dtype.
        side: The side of the basis.

    Returns:
        The Gram matrix (m, m), float64 for float64 gradients and float32 otherwise.
    """
    exact = gradient if gradient.dtype.itemsize >= 4 else gradient.float()
    G = orient(exact, side)
    return G @ G.mT
