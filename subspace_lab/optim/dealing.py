"""Exact decompositions of distributed matrices, side by side: each is gathered on one process, the next on the next.

Legend: G oriented gradient (m, n); S basis (m, r).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from subspace_lab.optim.whole import Whole

if TYPE_CHECKING:
    from subspace_lab.optim.sharded import Cut, Shards

ELSEWHERE = "a basis could not be computed on another process; the message of that one says why"


@dataclass(frozen=True)
class Decomposition:
    """What one process is to compute of a whole matrix.

    Attributes:
        lies: How the matrix lies.
        like_gradient: What is here of the matrix (m, n).
        like_basis: What is here of the old basis (m, r), None where it is not looked at.
        like_moments: What is here of a moment (r, n), None where it is not looked at.
        rank: r.
        compute: Basis (m, r) of the three, whole.
    """

    lies: Whole
    like_gradient: Tensor
    like_basis: Tensor | None
    like_moments: Tensor | None
    rank: int
    compute: Callable[[Tensor, Tensor | None, Tensor | None], Tensor]


def dealt_out(work: Sequence[Decomposition]) -> list[Tensor]:
    """Do decompositions side by side, in rounds in which no process holds more than one whole matrix.

    Args:
        work: In the same order on all processes.

    Returns:
        Of every basis the rows that are here.

    Raises:
        ValueError: If one failed on another process; on that one its own error.
    """
    bases: list[Tensor] = []
    size = max((job.lies.num_processes for job in work), default=1)
    for start in range(0, len(work), size):
        bases += _round(work[start : start + size])
    return bases


def _round(work: Sequence[Decomposition]) -> list[Tensor]:
    bases: list[Tensor] = []
    failed: list[Tensor] = []
    errors: list[Exception] = []
    places = [_Place(cast("Shards", job.lies), number) for number, job in enumerate(work)]
    gathered = [place.gathered(job) for place, job in zip(places, work, strict=True)]
    found: list[Tensor | None] = []
    for job, place, whole in zip(work, places, gathered, strict=True):
        S = None
        if place.is_here:
            S = job.like_gradient.new_empty(job.lies.num_rows(job.like_gradient), job.rank)
            try:
                S.copy_(job.compute(*whole))
            except Exception as error:  # raised below: the others wait for this basis
                errors.append(error)
                S.fill_(torch.nan)
        found.append(S)
    del gathered
    for number, (job, place) in enumerate(zip(work, places, strict=True)):
        S, found[number] = found[number], None
        if S is None:
            S = job.like_gradient.new_empty(job.lies.num_rows(job.like_gradient), job.rank)
        place.broadcast(S)
        failed.append(S[:1, :1].isnan().any())
        mine = job.lies.own_rows(S)
        bases.append(mine if mine is S else mine.clone())  # a view would keep all of S
    if errors:
        raise errors[0]
    if bool(torch.stack(failed).any()):
        raise ValueError(ELSEWHERE)
    return bases


class _Place:
    """The process that a matrix is gathered on, among those that it is distributed over."""

    def __init__(self, lies: Shards, number: int) -> None:
        self._rows, self._columns = lies.rows[::-1], lies.columns[::-1]  # the innermost cut is undone first
        self._moments = lies.moments[::-1] or self._columns
        self._at: dict[int, int] = {}
        for cut in (*self._rows, *self._columns):
            number, self._at[cut.dim] = divmod(number, cut.count)
        self.is_here = all(self._is_at(cut) for cut in (*self._rows, *self._columns))

    def _is_at(self, cut: Cut) -> bool:
        return cut.index == self._at[cut.dim]

    def gathered(self, job: Decomposition) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The three matrices of a job, whole where this is the place."""
        G = self._gather(self._gather(job.like_gradient, self._rows, 0), self._columns, 1, before=self._rows)
        S, M = job.like_basis, job.like_moments
        return (
            G,
            None if S is None else self._gather(S, self._rows, 0),
            None if M is None else self._gather(M, self._moments, 1),
        )

    def _gather(self, X: Tensor, cuts: Sequence[Cut], side: int, before: Sequence[Cut] = ()) -> Tensor:
        for number, cut in enumerate(cuts):
            if all(self._is_at(other) for other in (*before, *cuts[:number])):
                X = cut.gather(X, self._at[cut.dim], side)
        return X

    def broadcast(self, S: Tensor) -> None:
        """Send S from the place to all, in place."""
        cuts = (*self._rows, *self._columns)
        for number in reversed(range(len(cuts))):
            if all(self._is_at(other) for other in cuts[:number]):
                cuts[number].broadcast(S, self._at[cuts[number].dim])
