"""A basis that is not kept: columns of a cosine transform, with random signs. Its products are fast transforms.

``S = D C^T P`` is orthonormal to rounding, whatever the signs D and the chosen columns P. ``S^T G = P^T C (D G)`` and
``S X = D C^T (P X)`` take ``O(mn log m)`` operations at any rank, and nothing is stored but what says D and P. The
transforms work on blocks of columns, in float32 for half precision, so that there is no full-size temporary.

Legend: G oriented gradient (m, n); C (m, m) cosine transform, see `transforms`; ``D (m, m)`` diagonal of signs;
``P (m, r)`` columns of the identity; ``S (m, r)`` basis; ``A = S^T G``; X any matrix (r, n).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from subspace_lab.optim.bases import Where
from subspace_lab.optim.transforms import dct, idct
from subspace_lab.optim.whole import WHOLE, Whole

BLOCK = 1 << 18  # entries transformed at once: they stay in the cache, so that the layout hardly matters


@dataclass(frozen=True)
class Cosines:
    """A basis of r cosines.

    Attributes:
        m: Rows of the whole basis.
        indices: Which rows of C (r,), int64.
        signs: The diagonal of D (m,), float32; None for ones.
        lies: How rows lie over processes. Where not all are here, a block is filled up with zeros and transformed
            whole: then every process does all of the arithmetic of its columns.
        products: See `Basis`; float64 for gradients of such numbers.
    """

    m: int
    indices: Tensor
    signs: Tensor | None = None
    lies: Whole = WHOLE
    products: torch.dtype = torch.float32

    def project(self, G: Tensor) -> Tensor:
        """See `Basis`; in float32 or better."""
        A = G.new_empty(len(self.indices), G.shape[1], dtype=_exact(G.dtype))
        for columns, block in self.transformed(G):
            A[:, columns] = block[self.indices]
        return A

    def transformed(self, G: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """``C D G`` of the rows that are here (m, n), a block of columns at a time."""
        for columns in _blocks(self.m, G.shape[1]):
            part, signs = G[:, columns], self._signs
            block = part.to(_exact(G.dtype), copy=True) if signs is None else part * signs
            if block.shape[0] != self.m:
                here, block = block, block.new_zeros(self.m, block.shape[1])
                self.lies.own_rows(block).copy_(here)
            yield columns, dct(block)

    def add_to(self, target: Tensor, X: Tensor, *, alpha: float, beta: float = 1.0) -> None:
        """See `Basis`."""
        for columns, lifted in self._lifted(X, target):
            part = target[:, columns]
            if beta == 0:
                torch.mul(lifted, alpha, out=part)
            else:
                (part if beta == 1 else part.mul_(beta)).add_(lifted, alpha=alpha)

    def residuals(self, G: Tensor, A: Tensor) -> Iterator[tuple[Where, Tensor]]:
        """See `Basis`."""
        for columns, lifted in self._lifted(A, G):
            yield (slice(None), columns), torch.sub(G[:, columns], lifted, out=lifted)

    def turn(self, old: Cosines) -> Tensor:
        """See `Basis`; ``P^T C D D_old C^T P_old``."""
        r, dtype = len(old.indices), self.products
        Q = torch.empty(len(self.indices), r, dtype=dtype, device=self.indices.device)
        for columns in _blocks(self.m, r):
            chosen = old.indices[columns]
            block = torch.zeros(self.m, len(chosen), dtype=dtype, device=chosen.device)
            block[chosen, torch.arange(len(chosen), device=chosen.device)] = 1
            block = idct(block)
            for signs in (self.signs, old.signs):
                if signs is not None:
                    block.mul_(signs[:, None])
            Q[:, columns] = dct(block)[self.indices]
        return Q

    def places_in(self, old: Cosines) -> Tensor:
        """Where the columns stand in a basis of the same signs (r,), -1 for those that it does not have."""
        places = self.indices.new_full((self.m,), -1)
        places[old.indices] = torch.arange(len(old.indices), device=places.device)
        return places[self.indices]

    def dense(self, dtype: torch.dtype) -> Tensor:
        """S (m, r) of the rows that are here."""
        rows, r = self.lies.own_rows(self.indices.new_empty(self.m, 1)).shape[0], len(self.indices)
        S = torch.empty(rows, r, dtype=dtype, device=self.indices.device)
        self.add_to(S, torch.eye(r, dtype=dtype, device=S.device), alpha=1.0, beta=0.0)
        return S

    @property
    def _signs(self) -> Tensor | None:
        """Signs of the rows that are here, as a column."""
        return None if self.signs is None else self.lies.own_rows(self.signs[:, None])

    def _lifted(self, X: Tensor, like: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """``S X`` of the rows that are here, a block of columns at a time, each laid out as the blocks of another."""
        along, signs = like.stride(0) < like.stride(1), self._signs
        for columns in _blocks(self.m, X.shape[1]):
            part = X[:, columns]
            size = (part.shape[1], self.m) if along else (self.m, part.shape[1])
            block = torch.zeros(size, dtype=_exact(like.dtype), device=X.device)
            block = block.mT if along else block
            block[self.indices] = part.to(block.dtype)
            lifted = self.lies.own_rows(idct(block))
            yield columns, lifted if signs is None else lifted.mul_(signs)


def _exact(dtype: torch.dtype) -> torch.dtype:
    """The dtype of a transform."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _blocks(m: int, n: int) -> Iterator[slice]:
    width = max(1, BLOCK // m)
    return (slice(start, min(start + width, n)) for start in range(0, n, width))
