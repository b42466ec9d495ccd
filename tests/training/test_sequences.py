"""Which sequences a step sees."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from subspace_lab.training.sequences import Sequences

LENGTH = 4


def numbered(total, *, hold_out=True, rest=0):
    """Sequences whose tokens are all the sequence's own number."""
    return Sequences(np.repeat(np.arange(total + 1), LENGTH)[: total * LENGTH + rest], LENGTH, hold_out=hold_out)


@given(st.integers(2, 70), st.integers(0, 100))
def test_an_epoch_sees_every_sequence_once_and_nothing_held_out(total, seed):
    sequences = numbered(total)
    for epoch in range(3):
        seen = sequences.batch(epoch * sequences.num_train, sequences.num_train, seed=seed)
        assert sorted(seen[:, 0].tolist()) == list(range(sequences.num_train))
        assert (seen == seen[:, :1]).all()
    held_out = sequences.held_out(total)[:, 0].tolist()
    assert held_out == list(range(sequences.num_train, total))
    assert len(held_out) == max(1, total // 20)


@given(st.integers(1, 30), st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_batches_are_consecutive_pieces_of_one_stream(total, sizes):
    sequences = numbered(total, hold_out=False, rest=3)
    whole = sequences.batch(0, sum(sizes), seed=7)
    starts = np.cumsum([0, *sizes[:-1]])
    backwards = [sequences.batch(int(start), size, seed=7) for start, size in [*zip(starts, sizes, strict=True)][::-1]]
    assert torch.equal(torch.cat(backwards[::-1]), whole)


def test_epochs_and_seeds_have_orders_of_their_own():
    sequences = numbered(100)
    n = sequences.num_train
    orders = [sequences.batch(epoch * n, n, seed=seed)[:, 0].tolist() for epoch in (0, 1) for seed in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_held_out_sequences_are_spread_over_the_tail():
    assert numbered(1000).held_out(5)[:, 0].tolist() == [950, 960, 970, 980, 990]


@pytest.mark.parametrize(("tokens", "hold_out"), [(3, False), (7, True), (0, False)])
def test_too_few_tokens_are_refused(tokens, hold_out):
    with pytest.raises(ValueError, match=f"the data have {tokens} tokens, less than one sequence"):
        Sequences(np.zeros(tokens, np.uint16), LENGTH, hold_out=hold_out)
