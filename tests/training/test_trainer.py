"""One step's computation, seen by itself: the held-out loss of odd counts, and what is random in a step."""

import hashlib

import numpy as np
import pytest
import torch

from subspace_lab.training.optimizers import settle_optimizer
from subspace_lab.training.sequences import Sequences
from subspace_lab.training.tasks.language import LanguageTask
from subspace_lab.training.trainer import Trainer
from subspace_lab.training.workers import Workers
from tests.training.tiny import tiny_config

LENGTH = 16


class Others(Workers):
    """One process among several, whose sums are its own."""

    def sums(self, values):
        return list(values)


def trainer_of(text, num_held_out=3, **changes):
    config = settle_optimizer(tiny_config(text, **changes).resolved())
    tokens = np.random.default_rng(0).integers(0, 300, 20 * num_held_out * LENGTH).astype(np.uint16)
    alone = Workers(0, 1, torch.device("cpu"))
    return Trainer(config, LanguageTask(config, Sequences(tokens, LENGTH, hold_out=True), alone), alone)


def as_process(trainer, rank, size, share):
    """The trainer as one of several processes."""
    trainer._workers = trainer._task._workers = Others(rank, size, torch.device("cpu"))
    trainer._share = share


def losses_of(trainer, rows):
    """Of each held-out sequence by itself."""
    with torch.no_grad():
        return [
            torch.nn.functional.cross_entropy(trainer.model(row[None]).logits[0, :-1], row[1:]).item() for row in rows
        ]


@pytest.mark.parametrize(("num_held_out", "batch_size"), [(3, 2), (5, 4), (1, 2), (7, 3)])
def test_every_held_out_sequence_counts_once(text, num_held_out, batch_size):
    """In batches of which the last one is not full."""
    trainer = trainer_of(text, num_held_out, batch_size=batch_size, eval_batches=4)
    rows = trainer._task.sequences.held_out(4 * batch_size)
    assert len(rows) == num_held_out
    assert trainer.evaluate()["eval_loss"] == pytest.approx(np.mean(losses_of(trainer, rows)), rel=1e-5)
    assert trainer.model.training


@pytest.mark.parametrize("size", [2, 4, 5])
def test_processes_share_the_sequences_and_some_get_none(text, size):
    trainer = trainer_of(text, 3, batch_size=20, eval_batches=1)
    losses = losses_of(trainer, trainer._task.sequences.held_out(20))
    parts = []
    for rank in range(size):
        as_process(trainer, rank, size, 20 // size)
        parts.append(trainer.evaluate()["eval_loss"])
        assert parts[rank] == pytest.approx(sum(losses[rank::size]) / 3, rel=1e-5)
    assert sum(parts) == pytest.approx(np.mean(losses), rel=1e-5)


def drawn(trainer, step, rank=0):
    """What a layer that drops at random would draw in the micro-batches of a step."""
    as_process(trainer, rank, 1, trainer._share)
    found = []
    handle = trainer.model.register_forward_pre_hook(lambda *_: found.append(torch.rand(4).tolist()))
    trainer.backward(step)
    handle.remove()
    return found


def test_what_is_dropped_differs_from_step_to_step_and_is_the_same_when_a_step_is_taken_again(text):
    trainer = trainer_of(text, accumulation=3)
    other = trainer_of(text, accumulation=3, seed=1)
    all_of = [*drawn(trainer, 0), *drawn(trainer, 1), *drawn(trainer, 7), *drawn(trainer, 1, rank=1), *drawn(other, 1)]
    assert len({tuple(draw) for draw in all_of}) == len(all_of) == 15
    torch.rand(100)
    assert drawn(trainer, 1) == all_of[3:6]


def test_micro_batches_of_processes_are_disjoint_and_in_order(text):
    """Three processes of two sequences: together the micro-batch of one process of six."""
    trainer = trainer_of(text, 10, batch_size=6, accumulation=2)
    whole = [trainer._micro_batch(step, micro)["input_ids"] for step in (0, 1) for micro in (0, 1)]
    assert [tuple(rows.shape) for rows in whole] == [(6, LENGTH)] * 4
    stream = trainer._task.sequences.batch(0, 24, seed=0)
    assert torch.equal(torch.cat(whole), stream)
    parts = []
    for rank in range(3):
        as_process(trainer, rank, 3, 2)
        parts.append(trainer._micro_batch(1, 1)["input_ids"])
    assert torch.equal(torch.cat(parts), whole[3])


def test_the_loss_and_the_gradient_are_means_over_the_micro_batches(text):
    trainer = trainer_of(text, accumulation=3, batch_size=2)
    loss = trainer.backward(2)
    parameters = dict(trainer.model.named_parameters())
    found = {name: p.grad.clone() for name, p in parameters.items()}
    trainer.model.zero_grad()
    tokens = torch.cat([trainer._micro_batch(2, micro)["input_ids"] for micro in range(3)])
    expected = trainer.model(input_ids=tokens, labels=tokens).loss
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for name, p in parameters.items():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-4, atol=1e-6)
    norm = float(trainer.gradient_norm())
    assert norm == pytest.approx(float(torch.cat([p.grad.flatten() for p in parameters.values()]).norm()), rel=1e-5)


def test_the_evaluation_set_is_named_by_its_tokens(text):
    """By what a run's manifest holds: 64-bit numbers, row by row."""
    facts = trainer_of(text, 4)._task.facts()
    rows = trainer_of(text, 4)._task.sequences.held_out(4)
    content = b"".join(int(token).to_bytes(8, "little") for row in rows for token in row)
    assert facts == {"sequences": 4, "tokens": LENGTH, "held_out": True, "hash": hashlib.sha256(content).hexdigest()}
