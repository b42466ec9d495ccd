"""A matrix that is whole on this process: there is nothing to sum and nothing to exchange.

What a step asks of a matrix that may be distributed over processes is asked here, too, and answered at no cost, so that
the arithmetic of a step is written once. `Shards` answers for matrices of which this process holds a part.

Legend: G oriented gradient (m, n); S basis (m, r); A, M, V projected gradient and moments (r, n).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

_PLAIN = {nn.Parameter, Tensor}


class Whole:
    """How a matrix lies over processes: whole, on this one.

    Attributes:
        num_processes: Over how many processes it is distributed.
        num_row_parts: How many processes hold rows of the same column.
        first: Number of the first matrix of a stack that is here.
        moves: Whether a step needs other rows of the matrices than are here: those that `apart` gives.
    """

    num_processes: int = 1
    num_row_parts: int = 1
    first: int = 0
    moves: bool = False

    def num_rows(self, X: Tensor) -> int:
        """M of the whole matrix, given the rows that are here."""
        return X.shape[0]

    def apart(self, X: Tensor) -> Tensor:
        """This process's part of each matrix (matrices, rows, ...), where it has rows of some of them."""
        raise NotImplementedError

    def put_together(self, parts: Sequence[Tensor], X: Tensor) -> None:
        """The way back from `apart`, in place; nothing where nothing moves."""

    def own_rows(self, X: Tensor) -> Tensor:
        """The rows that are here, of a matrix (m, r) that every process has whole."""
        return X

    def all_rows(self, X: Tensor) -> Tensor:
        """The whole matrix (m, r), on every process, of the rows that are here."""
        return X

    def sum_rows(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Sums over the processes that hold other rows; parts may be changed in place."""
        return parts

    def sum_columns(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Sums over the processes that hold other columns."""
        return parts

    def sum_moments(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Sums over the processes that hold moments of other columns."""
        return parts

    def max_columns(self, x: Tensor) -> Tensor:
        """The largest number of those that processes with other columns have."""
        return x

    def to_moments(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """From sums over the rows that are here, (r, n) or (n,), to whole sums for the columns of the moments."""
        return parts

    def from_moments(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """The way back: from the columns of the moments to those of the gradient."""
        return parts

    def norm(self, X: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Norm of all entries of a matrix (m, n) that is distributed as the gradient is."""
        norm: Tensor = torch.linalg.vector_norm(X, dtype=dtype)
        return norm

    def rows_here(self, indices: Tensor) -> tuple[Tensor | None, Tensor]:
        """Which of some rows of the whole matrix are here, None for all, and which rows they are of what is here."""
        return None, indices

    def among(self, rows: Tensor, places: Tensor | None, number: int) -> Tensor:  # noqa: ARG002
        """Rows that are here at their places among the rows that were asked for, zeros where others are elsewhere."""
        return rows


WHOLE = Whole()


def is_distributed(x: object) -> bool:
    """Whether a tensor is a DTensor; where nobody has imported their module there are none."""
    if type(x) in _PLAIN:  # at the cost of a look: it is asked several times per matrix and step
        return False
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def local_state(p: Tensor, state: dict[str, Any]) -> dict[str, Any]:
    """The state of a parameter with the parts of its tensors that this process holds; counts as they are.

    Args:
        p: The parameter.
        state: Its state; it is returned itself where the parameter is not distributed.

    Returns:
        Key to what is here, of the same memory.
    """
    if not is_distributed(p):
        return state
    return {key: local(value) if isinstance(value, Tensor) else value for key, value in state.items()}


def local(x: Tensor) -> Tensor:
    """The part of a tensor that this process holds: all of it, unless it is a DTensor."""
    if type(x) in _PLAIN or not is_distributed(x):
        return x
    part: Tensor = x._local_tensor  # type: ignore[attr-defined]
    wait = getattr(part, "wait", None)  # of a collective that is still under way
    return part if wait is None else wait()


def whole_of(x: Tensor) -> Tensor:
    """All of a tensor, on every process that holds a part of it: all of them have to ask for it."""
    if not is_distributed(x):
        return x
    full: Tensor = x.full_tensor()  # type: ignore[attr-defined]
    return full
