"""The sequences on which quantities of the loss are measured: the same ones at every checkpoint of a run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from jaxtyping import Int
from torch import Tensor

from subspace_lab.training.sequences import Sequences, spread

_COUNT = 32


@dataclass(frozen=True)
class EvaluationSet:
    """Sequences of a run, spread evenly over the text that was held out, or over all of it where none was.

    Attributes:
        tokens: Token numbers (count, length); an even count of at most 32.
        held_out: Whether the model was not trained on them.
    """

    tokens: Int[Tensor, "count length"]
    held_out: bool

    @classmethod
    def of(cls, sequences: Sequences) -> Self:
        """The set of a run.

        Args:
            sequences: Its data.

        Returns:
            The set, a function of the data and the length of the sequences alone.
        """
        tokens = sequences.spread(probe_count(sequences.num_held_out or sequences.num_train))
        return cls(tokens, sequences.num_held_out > 0)

    def facts(self) -> dict[str, Any]:
        """What the manifest says of it: sequences, tokens per sequence, whether they were held out, SHA-256."""
        count, length = self.tokens.shape
        digest = hashlib.sha256(self.tokens.numpy().astype(np.int64).tobytes()).hexdigest()
        return {"sequences": count, "tokens": length, "held_out": self.held_out, "hash": digest}

    def first(self, count: int) -> Int[Tensor, "at_most_count length"]:
        """So many of its sequences, spread evenly; all of them when there are fewer.

        Args:
            count: How many.

        Returns:
            Token numbers.
        """
        return self.tokens[spread(count, len(self.tokens))]


def probe_count(total: int) -> int:
    """How many of so many rows quantities of the loss are measured on: an even number of at most 32, or one."""
    return min(_COUNT, max(1, total - total % 2))
