"""What a step asks of a basis, and the answers of one that is kept as a matrix.

Legend: G oriented gradient (m, n); S basis (m, r); ``A = S^T G``; X any matrix (r, n).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from subspace_lab.optim.matrices import cast
from subspace_lab.optim.whole import WHOLE, Whole

_ROWS = 64  # of a residual at once
Where = tuple[slice, slice]


class Basis(Protocol):
    """An orthonormal basis in a step.

    Attributes:
        products: The dtype in which its products are computed, which bounds what they can resolve.
    """

    @property
    def products(self) -> torch.dtype:
        """See `Basis`."""
        ...

    def project(self, G: Tensor) -> Tensor:
        """``S^T G`` (r, n), of the rows that are here."""
        ...

    def add_to(self, target: Tensor, X: Tensor, *, alpha: float, beta: float = 1.0) -> None:
        """``target = beta target + alpha S X`` in place; with beta 0 it may be anything before."""
        ...

    def residuals(self, G: Tensor, A: Tensor) -> Iterator[tuple[Where, Tensor]]:
        """``G - S A``, a part at a time: which entries they are, and a new tensor of them."""
        ...

    def turn(self, old: Any) -> Tensor:
        """``S^T S_old`` (r, r), of another basis of this kind."""
        ...


@dataclass(frozen=True)
class Dense:
    """A basis that is kept as a matrix.

    Attributes:
        S: Its rows that are here, in the dtype of the products.
        lies: How its rows lie over processes.
    """

    S: Tensor
    lies: Whole = WHOLE

    @property
    def products(self) -> torch.dtype:
        """See `Basis`."""
        return self.S.dtype

    def project(self, G: Tensor) -> Tensor:
        """See `Basis`."""
        return cast(self.S, G.dtype).mT @ G

    def add_to(self, target: Tensor, X: Tensor, *, alpha: float, beta: float = 1.0) -> None:
        """See `Basis`."""
        target.addmm_(self.S, X, beta=beta, alpha=alpha)

    def residuals(self, G: Tensor, A: Tensor) -> Iterator[tuple[Where, Tensor]]:
        """See `Basis`."""
        for start in range(0, G.shape[0], _ROWS):
            rows = slice(start, start + _ROWS)
            yield (rows, slice(None)), torch.addmm(G[rows], self.S[rows], A, alpha=-1)

    def turn(self, old: Dense) -> Tensor:
        """See `Basis`."""
        (Q,) = self.lies.sum_rows(self.S.mT @ old.S)
        return Q
