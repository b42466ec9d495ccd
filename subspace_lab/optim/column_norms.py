"""Norms of a gradient's columns, which two methods need anyway: computed once, for the check and for the step."""

from __future__ import annotations

from torch import Tensor

from subspace_lab.optim.base import Group, Live
from subspace_lab.optim.low_rank import LowRankOptimizer
from subspace_lab.optim.matrices import pieces, squared_columns
from subspace_lab.optim.recovery import check_limiter
from subspace_lab.optim.shards import lies_elsewhere, lies_of


class ColumnNorms(LowRankOptimizer):
    """A method that scales columns: the sum of their squares tells the check all, and costs no pass of its own."""

    _columns: dict[tuple[int, int], Tensor]  # (parameter, piece) -> squares (n,), from the check to the update

    def _passed(self, live: list[Live]) -> list[Live] | None:
        self._columns = {}
        return super()._passed(live)

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        if self._scales_columns(group):
            check_limiter(group)

    def _scales_columns(self, group: Group) -> bool:
        return group["rank"] is not None

    def _summary(self, x: Live) -> Tensor:
        if not self._scales_columns(x.group) or _needs_others(x):
            return super()._summary(x)
        total: Tensor | None = None
        for matrix in pieces(x.p, x.grad, x.group):
            squares = squared_columns(matrix.G)
            self._columns[x.index, matrix.number] = squares
            total = squares.sum() if total is None else total.add_(squares.sum())
        return x.grad.sum() if total is None else total.sqrt_()  # a process may have no matrix of a stack

    def _squares(self, index: tuple[int, int], G: Tensor) -> Tensor:
        """Squared norms of the columns of a matrix, which the check may have computed."""
        found = self._columns.pop(index, None)
        return squared_columns(G) if found is None else found

    def _shrunk(self, x: Live) -> Live:
        shrunk = super()._shrunk(x)
        if shrunk.factor != 1 and self._scales_columns(x.group):
            self._summary(shrunk)  # squared columns that have not overflowed
        return shrunk

    def _update_all(self, live: list[Live]) -> None:
        try:
            super()._update_all(live)
        finally:
            self._columns = {}


def _needs_others(x: Live) -> bool:
    """Whether the columns that are here are not known without an exchange, which the check must not begin."""
    return lies_elsewhere(x.p) or (x.group["splits"] > 1 and lies_of(x.p, x.group).moves)
