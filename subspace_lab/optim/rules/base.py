"""What a rule is, and the first basis that most of them share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from subspace_lab.optim.whole import WHOLE, Whole

_COLUMNS = 64  # of the gradient in float64 at once
_SYEVR = 312  # m bytes of LAPACK's work space: 33 m numbers in float64, m eigenvalues and 10 m integers
QR = 34  # r of LAPACK's work space for a QR, at most

Refreshed = Tensor | tuple[Tensor, Tensor]  # a basis S, or S and S^T S_old where a rule of this package has that anyway


@dataclass(frozen=True)
class Moment:
    """Adam's first moment in the old basis.

    Attributes:
        raw: M (r, n) as it is kept.
        correction: ``1 - beta1^(t-1)``.
    """

    raw: Tensor
    correction: float

    def mean(self, dtype: torch.dtype) -> Tensor:
        """Bias-corrected, ``Mh = M / (1 - beta1^(t-1))`` (r, n)."""
        return self.raw.to(dtype) / self.correction


@dataclass(frozen=True)
class Context:
    """What a rule may look at beside the gradient.

    Attributes:
        group: The parameter group, with the rule's own settings.
        t: The step, counted from 1.
        refresh: Which refresh this is, 0 for the first basis.
        moment: First moment in the old basis; None for the first basis.
        draw: Draws a standard normal matrix of the given shape on the CPU, the same one whenever the same refresh of
            the same parameter is computed again.
        lies: Whether bases, gradients and moments are whole; sums over what other processes hold.
    """

    group: Mapping[str, Any]
    t: int
    refresh: int
    moment: Moment | None
    draw: Callable[[int, int], Tensor]
    lies: Whole = WHOLE

    def normal(self, like: Tensor, rank: int) -> Tensor:
        """The rows that are here of a standard normal matrix (m, r).

        Args:
            like: Tensor with the rows that are here.
            rank: r.

        Returns:
            The rows, in the dtype and on the device of the tensor.
        """
        return self.lies.own_rows(self.draw(self.lies.num_rows(like), rank)).to(like)


class Rule(Protocol):
    """Chooses bases. Stateless: all that it may depend on is in its arguments.

    A rule may also have ``options``, names of the options that it reads from the group. A rule that is not part of this
    package works on copies of S and G, and answers in any floating-point dtype (see `Guarded`).
    """

    def first(self, G: Tensor, rank: int, context: Context) -> Tensor:
        """The first basis.

        Args:
            G: First non-zero gradient (m, n), float32 or float64.
            rank: Effective rank r, at most m.
            context: Step, settings and randomness.

        Returns:
            Orthonormal S (m, r).
        """
        ...

    def refresh(self, S: Tensor, G: Tensor, context: Context) -> Refreshed:
        """The next basis; called for r < m only.

        Args:
            S: Orthonormal basis (m, r).
            G: Gradient of this step (m, n).
            context: Step, settings and randomness.

        Returns:
            Orthonormal S (m, r), a new tensor; or a pair of it and ``Q = S^T S_old`` (r, r), which spares a product.
        """
        ...


class ShippedRule(Rule, Protocol):
    """A rule of this package: the memory of its refresh is known, and what it needs where a matrix is distributed.

    It works on the rows and columns that are here and sums over the others by ``context.lies``, unless it `needs_all`.
    """

    def needs_all(self, context: Context) -> bool:
        """Whether it decomposes the gradient, for which one process needs all of it.

        Args:
            context: Step and settings; refresh 0 is the first basis.

        Returns:
            True or False.
        """
        ...

    def workspace(self, m: int, n: int, r: int, e: int) -> int:
        """What a refresh holds at once, as the allocator's record measures it; LAPACK's work space is a bound.

        Args:
            m: Rows of the oriented gradient.
            n: Columns.
            r: Effective rank.
            e: Bytes of a number.

        Returns:
            Bytes.
        """
        ...


def top_left_space(G: Tensor, rank: int) -> Tensor:
    """Top-r left singular vectors of G from the eigenvectors of ``G G^T``, formed in float64.

    Cheaper than an SVD the wider G is; float64 keeps the digits that squaring costs. On the CPU LAPACK's ``syevr``
    works in place and finds no more than r vectors, so that one matrix (m, m) is all that there is beside them. In
    float64 that is as large as two square layers in float32, of which a refresh then holds ``2 + 2 r/m``; where
    ``n >= m + r`` it holds less than two.

    Args:
        G: Gradient (m, n).
        rank: r.

    Returns:
        Orthonormal S (m, r) in the dtype of G.
    """
    C, m = _gram(of_ordinary_size(G) if G.dtype == torch.float64 else G), G.shape[0]
    if C.device.type == "cpu":
        import scipy.linalg

        found = scipy.linalg.eigh(
            C.mT.numpy(), overwrite_a=True, check_finite=False, driver="evr", subset_by_index=(m - rank, m - 1)
        )
        vectors = torch.from_numpy(found[1])
    else:
        vectors = torch.linalg.eigh(C).eigenvectors[:, m - rank :]
    del C
    return vectors.to(G.dtype).flip(1)


def top_left_space_bytes(m: int, n: int, r: int) -> int:
    """The Gram matrix, with a block of columns or with its eigenvectors and LAPACK's ``syevr``, all in float64."""
    return 8 * m * m + max(8 * m * min(n, _COLUMNS), 8 * m * r + _SYEVR * m + 8 * r)


def of_ordinary_size(X: Tensor, lies: Whole = WHOLE) -> Tensor:
    """A matrix times the power of two that brings its largest entry to about 1: its directions, bit for bit.

    Args:
        X: Finite matrix.
        lies: Where its rows belong to columns of a distributed gradient.

    Returns:
        A new one; X itself if all of it is zero.
    """
    largest = torch.stack(torch.aminmax(X)).abs().amax() if X.numel() else X.new_zeros(())
    exponent = torch.frexp(lies.max_columns(largest)).exponent
    half = exponent // 2  # in two steps, since 2^-exponent may be no number
    one = torch.ones((), dtype=X.dtype, device=X.device)
    return (X * torch.ldexp(one, -half)).mul_(torch.ldexp(one, half - exponent))


def _gram(G: Tensor) -> Tensor:
    """``G G^T`` in float64, a block of columns at a time."""
    C = torch.zeros(G.shape[0], G.shape[0], dtype=torch.float64, device=G.device)
    for columns in torch.split(G, _COLUMNS, 1):
        block = columns.double()
        C.addmm_(block, block.mT)
        del block
    return C


def orthonormalized(S: Tensor, lies: Whole = WHOLE) -> Tensor:
    """One Newton-Schulz step, ``S (3 I - S^T S) / 2``: takes an almost orthonormal basis to rounding.

    Args:
        S: Basis (m, r) whose Gram matrix is close to the identity.
        lies: How its rows lie over processes.

    Returns:
        The corrected basis (m, r).
    """
    (K,) = lies.sum_rows(S.mT @ S)
    return torch.addmm(S, S, K, beta=1.5, alpha=-0.5)
