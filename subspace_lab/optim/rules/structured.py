"""Bases that are cosines and cost no memory: drawn anew, swapped one by one, or those of most energy.

Legend: ``S = D C^T P (m, r)``: signs D, cosine transform C, chosen columns P; see `Cosines`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from subspace_lab.optim.cosines import BLOCK, Cosines
from subspace_lab.optim.random import Draw
from subspace_lab.optim.rules.base import Context
from subspace_lab.optim.whole import Whole

DrawOf = Callable[[int], Draw]  # from the number of a refresh to its draws


class Trig:
    """Random signs and r random cosines, all drawn anew at every refresh; this project's own.

    ``S = D C^T P``, a subsampled randomized cosine transform. Like a `Jump`'s basis it is incoherent with whatever the
    gradient's directions are, the signs see to that, and holds r/m of the energy on average. Unlike one it is not
    uniform on the Grassmannian; it needs no QR and is orthonormal to rounding for good.
    """

    options: tuple[str, ...] = ()
    keeps_indices: bool = False

    def needs_all(self, context: Context) -> bool:  # noqa: ARG002
        """See `ShippedRule.needs_all`."""
        return False

    def first(self, G: Tensor, rank: int, context: Context) -> Cosines:
        """See `Rule.first`; the basis as what it is made of."""
        return _drawn(context.lies.num_rows(G), rank, context.draw, G, context.lies)

    def refresh(self, S: Cosines, G: Tensor, context: Context) -> Cosines:
        """See `Rule.refresh`."""
        return self.first(G, len(S.indices), context)

    def kept(self, G: Tensor, rank: int, indices: Tensor | None, draw_of: DrawOf, refresh: int, lies: Whole) -> Cosines:
        """The basis of a refresh, first or later, once it was chosen.

        Args:
            G: Gradient (m, n), for its rows, dtype and device.
            rank: r.
            indices: What the state has of it, where there are some.
            draw_of: Draws of every refresh.
            refresh: Which one.
            lies: How the rows of G lie.

        Returns:
            The basis.
        """
        assert indices is None
        return _drawn(lies.num_rows(G), rank, draw_of(refresh), G, lies)

    def workspace(self, m: int, n: int, r: int, e: int) -> int:  # noqa: ARG002
        """See `ShippedRule.workspace`: the moments are carried over by a product (r, r)."""
        return _draws(m) + e * (2 * min(m * r, BLOCK) + r * r)


class TrigWalk(Trig):
    """A walk over cosines: the signs stay, and ``swaps`` of the r cosines are exchanged for others at every refresh.

    Which, is drawn. So many principal angles of a move are 90 degrees and all others 0: by its root mean square it is
    as long as a `Walk` of ``walk_step = pi/2 sqrt(swaps / r)``. What stays, stays where it is, moments included.
    """

    options: tuple[str, ...] = ("swaps",)
    keeps_indices: bool = True

    def refresh(self, S: Cosines, G: Tensor, context: Context) -> Cosines:  # noqa: ARG002
        """See `Rule.refresh`."""
        X, r = context.draw(S.m, 2), len(S.indices)
        k = min(int(context.group["swaps"]), r, S.m - r)
        unused = torch.ones(S.m, dtype=torch.bool)
        unused[S.indices.cpu()] = False
        (free,) = unused.nonzero(as_tuple=True)
        indices = S.indices.clone()
        leaving, coming = X[:r, 0].argsort(stable=True)[:k], free[X[: S.m - r, 1].argsort(stable=True)[:k]]
        indices[leaving.to(indices.device)] = coming.to(indices.device)
        return Cosines(S.m, indices, S.signs, S.lies, S.products)

    def kept(
        self,
        G: Tensor,
        rank: int,
        indices: Tensor | None,
        draw_of: DrawOf,
        refresh: int,  # noqa: ARG002
        lies: Whole,
    ) -> Cosines:
        """See `Trig.kept`; the signs are those of the first basis."""
        assert indices is not None
        first = super().kept(G, rank, None, draw_of, 0, lies)
        return Cosines(first.m, indices.long(), first.signs, lies, first.products)

    def workspace(self, m: int, n: int, r: int, e: int) -> int:
        """See `ShippedRule.workspace`: moments are carried over row by row."""
        return _draws(m) + 2 * e * n * r


class Dct(Trig):
    """The r cosines that hold most of the gradient's energy, without signs: the basis of DCT-AdamW (arXiv 2505.17967).

    Their sum of squares over the columns decides, the first of equals. A zero gradient changes nothing.
    """

    options: tuple[str, ...] = ()
    keeps_indices: bool = True

    def first(self, G: Tensor, rank: int, context: Context) -> Cosines:
        """See `Rule.first`."""
        every = torch.arange(rank, device=G.device)
        return self.refresh(Cosines(context.lies.num_rows(G), every, None, context.lies, _exact(G)), G, context)

    def refresh(self, S: Cosines, G: Tensor, context: Context) -> Cosines:
        """See `Rule.refresh`."""
        energies = _energies(S, G, context.lies)
        largest = energies.argsort(descending=True, stable=True)[: len(S.indices)].sort().values
        return Cosines(S.m, torch.where(energies.any(), largest, S.indices), None, S.lies, S.products)

    def kept(
        self,
        G: Tensor,
        rank: int,  # noqa: ARG002
        indices: Tensor | None,
        draw_of: DrawOf,  # noqa: ARG002
        refresh: int,  # noqa: ARG002
        lies: Whole,
    ) -> Cosines:
        """See `Trig.kept`."""
        assert indices is not None
        return Cosines(lies.num_rows(G), indices.long(), None, lies, _exact(G))

    def workspace(self, m: int, n: int, r: int, e: int) -> int:
        """See `ShippedRule.workspace`."""
        return max(e * min(m * n, max(BLOCK, m)) + 8 * m, 2 * e * n * r) + 24 * m


def _drawn(m: int, rank: int, draw: Draw, G: Tensor, lies: Whole) -> Cosines:
    """Signs and indices by two normal numbers a row: the sign of one, and the order of the other."""
    X = draw(m, 2)
    signs = torch.where(X[:, 0] < 0, -1.0, 1.0).to(torch.float32)
    indices = X[:, 1].argsort(stable=True)[:rank].sort().values
    return Cosines(m, indices.to(G.device), signs.to(G.device), lies, _exact(G))


def _energies(S: Cosines, G: Tensor, lies: Whole) -> Tensor:
    """Squares of the rows of ``C G`` (m,), of all columns, in float64."""
    energies = torch.zeros(S.m, dtype=torch.float64, device=G.device)
    if lies.num_row_parts == 1:
        for _, block in S.transformed(G):
            energies += _squares(block)
        (total,) = lies.sum_columns(energies)
        return total
    spread = G.new_empty(S.m, G.shape[1], dtype=_exact(G))  # what the rows that are here make of all entries of C G
    for columns, block in S.transformed(G):
        spread[:, columns] = block
    (mine,) = lies.to_moments(spread)
    (total,) = lies.sum_moments(_squares(mine))
    return total


def _squares(X: Tensor) -> Tensor:
    """``|X_i:|^2`` for every row in float64, of numbers whose squares may not be any; X is lost."""
    if X.numel() == 0:
        return X.new_zeros(X.shape[0], dtype=torch.float64)
    low, high = torch.aminmax(X)
    largest = torch.maximum(-low, high)
    norms: Tensor = torch.linalg.vector_norm(X.div_(largest), dim=1).double() * largest
    return norms.square_().nan_to_num_(0.0)


def _exact(G: Tensor) -> torch.dtype:
    return torch.float64 if G.dtype == torch.float64 else torch.float32


def _draws(m: int) -> int:
    """Bytes of two normal numbers a row, and their order."""
    return 40 * m
