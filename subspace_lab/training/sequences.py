"""Tokens cut into sequences, and which of them a step sees: a function of the seed and the step alone.

So the position in the data is the step: nothing else has to be saved, and a resumed run sees what it would have seen.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

_HELD_OUT = 20  # one sequence in so many


class Sequences:
    """The tokens of a run as sequences of one length; the tail, one in twenty, is held out for evaluation.

    Args:
        tokens: Token numbers (num_tokens,).
        length: Tokens per sequence.
        hold_out: Whether the tail is held out; False trains on everything.

    Attributes:
        num_train: Sequences to train on, at least one.
        num_held_out: Sequences held out.

    Raises:
        ValueError: If there are too few tokens for one sequence (two when one is held out).
    """

    def __init__(self, tokens: Int[np.ndarray, " num_tokens"], length: int, *, hold_out: bool) -> None:
        total = len(tokens) // length
        needed = 2 if hold_out else 1
        if total < needed:
            what = "one sequence to train on and one held out" if hold_out else "one sequence"
            raise ValueError(f"the data have {len(tokens)} tokens, less than {what} of {length}; "
                             "give more text or a smaller sequence_length")  # fmt: skip
        self._table = tokens[: total * length].reshape(total, length)
        self.num_held_out = max(1, total // _HELD_OUT) if hold_out else 0
        self.num_train = total - self.num_held_out

    @property
    def largest_token(self) -> int:
        """The largest token number."""
        return int(self._table.max())

    def batch(self, first: int, count: int, *, seed: int) -> Int[Tensor, "count length"]:
        """Sequences ``first .. first + count - 1`` of the endless stream of epochs.

        Every epoch is a permutation of its own of all sequences, drawn from (seed, epoch).

        Args:
            first: Sequences seen before.
            count: How many.
            seed: Of the order.

        Returns:
            Token numbers (count, length).
        """
        return self._rows(order_of(first, count, self.num_train, seed))

    def held_out(self, count: int) -> Int[Tensor, "at_most_count length"]:
        """Held-out sequences, spread evenly over the tail.

        Args:
            count: How many; all of them when there are fewer.

        Returns:
            Token numbers, always the same for the same count.
        """
        return self._rows(self.num_train + spread(count, self.num_held_out))

    def spread(self, count: int) -> Int[Tensor, "at_most_count length"]:
        """Held-out sequences as from `held_out`, or of a run that holds none out sequences spread over all.

        Args:
            count: How many; all of them when there are fewer.

        Returns:
            Token numbers, always the same for the same count.
        """
        if self.num_held_out:
            return self.held_out(count)
        return self._rows(spread(count, self.num_train))

    def _rows(self, rows: Int[np.ndarray, " count"]) -> Int[Tensor, "count length"]:
        return torch.from_numpy(self._table[rows].astype(np.int64))


def order_of(first: int, count: int, num_rows: int, seed: int) -> Int[np.ndarray, " count"]:
    """Numbers of the rows ``first .. first + count - 1`` of an endless stream of epochs, each in an order of its own.

    Args:
        first: Rows seen before.
        count: How many.
        num_rows: Rows in an epoch.
        seed: Of the order.

    Returns:
        Row numbers.
    """
    epochs, places = np.divmod(np.arange(first, first + count), num_rows)
    return np.array([_order(seed, int(epoch), num_rows)[place] for epoch, place in zip(epochs, places, strict=True)])


def spread(count: int, total: int) -> Int[np.ndarray, " at_most_count"]:
    """So many of the numbers below `total`, spread evenly; all of them where there are fewer."""
    count = min(count, total)
    return np.arange(count) * total // max(count, 1)


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> Int[np.ndarray, " count"]:
    return np.random.default_rng([seed, epoch]).permutation(count)
