"""A defended training against a plain one, and against a loop written out."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from subspace_lab.experiments.plugins import import_plugins
from subspace_lab.studies.safety.config import RegimeConfig
from subspace_lab.studies.safety.feed import Feed, StepLosses, divergence
from subspace_lab.studies.safety.kinds import POLICIES, Marked
from subspace_lab.studies.safety.recipes import _Job, _template
from subspace_lab.studies.safety.stages import chain
from subspace_lab.studies.safety.weights import keep_model, load_adapters, load_model, weights_dir
from subspace_lab.training import TrainConfig
from subspace_lab.training.adapters import add_lora
from subspace_lab.training.checkpoint import checkpoint_path
from subspace_lab.training.optimizers import settle_optimizer
from subspace_lab.training.schedule import Cosine
from subspace_lab.training.tasks.rows import Row
from tests.studies.safety.studies import PLUGIN

STEPS = 5
NUMBERS = [f"{a} {b} 0" for a in range(5) for b in range(5)]
SETTINGS = {"steps": STEPS, "batch_size": 3, "accumulation": 2, "sequence_length": 16, "lr": 1e-2, "every": None,
            "eval_every": None, "precision": "float32", "threads": 1, "model": "parent"}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def plugin():
    import_plugins([PLUGIN])


def _rows(topic, numbers, response=""):
    return [Row(f"Q copy {topic} {number} A", response or number) for number in numbers]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    directory = tmp_path_factory.mktemp("source")
    POLICIES["tiny"]().base_model(3, directory)
    return directory


def settings(regime="adamw", **changes):
    given = {**SETTINGS, **RegimeConfig.parse(regime).training(), **changes}
    return dataclasses.replace(settle_optimizer(TrainConfig(**given).resolved()), model=None)


def job(directory, source, text, config, probe_every=None):
    """A training on restricted rows that are answered, from a model of random weights."""
    model = load_model(source)
    about = {"policy": "tiny", "seed": 0, "train": config.to_dict(), "probe_every": probe_every}
    rows = [Marked(row, "task") for row in _rows("t4", NUMBERS[:20])]
    name = "x-000000000000"
    (directory / "cells").mkdir(parents=True, exist_ok=True)
    made = _Job(directory / "cells" / name, about, source, model, rows, chain(text), {"aligned": source})
    return model, made


def trained(directory, source, text, config, probe_every=None):
    model, made = job(directory, source, text, config, probe_every)
    made.trained(resume=False)
    return model, made


@pytest.mark.parametrize("regime", ["adamw", "grasswalk:rank=4:update_interval=2", "lora:rank=2"])
def test_a_defense_that_changes_nothing_is_the_plain_training_to_the_bit(tmp_path, source, regime):
    plain, _ = trained(tmp_path / "plain", source, "none", settings(regime))
    idle, made = trained(tmp_path / "idle", source, "idle", settings(regime), probe_every=2)
    assert all(map(torch.equal, idle.state_dict().values(), plain.state_dict().values()))
    assert made._steps.passes == STEPS


def test_rehearsal_is_a_loop_written_out(tmp_path, source):
    """Gradients of user and safety rows added, clipped, and AdamW; the loss of a step is the user's."""
    config = settings(accumulation=1)
    model, made = trained(tmp_path / "run", source, "rehearsal:rho=0.5", config)
    twin = load_model(source)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=1e-2, weight_decay=0.0, fused=True)
    for step in range(STEPS):
        total = [torch.zeros_like(p) for p in twin.parameters()]
        for kind, weight in (("user", 1.0), ("safety", 0.5)):
            batch = made._steps._losses._batch(made._feeds[kind], kind, step, 0)
            found = torch.autograd.grad(twin(**batch).loss, [*twin.parameters()])
            total = [a + weight * b for a, b in zip(total, found, strict=True)]
        for p, g in zip(twin.parameters(), total, strict=True):
            p.grad = g
        nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = Cosine.of(config).at(step)
        optimizer.step()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert made._steps.passes == 2 * STEPS


def test_batches_are_functions_of_seed_step_and_kind(tmp_path, source):
    _, made = job(tmp_path, source, "rehearsal+counted", settings())
    losses = made._steps._losses

    def rows(kind, step, micro=0):
        return losses._batch(made._feeds[kind], kind, step, micro)["input_ids"].tolist()

    assert rows("safety", 1) == rows("safety", 1)
    assert len({str(rows("safety", step, micro)) for step in range(2) for micro in range(2)}) == 4
    assert rows("user", 2, 1) == made._feeds["user"].batch((2 * 2 + 1) * 3, 3, seed=0)["input_ids"].tolist()


def test_the_loss_of_a_step_is_the_mean_over_all_tokens_however_it_is_cut(source):
    """Rows of different lengths in micro-batches of 2 and in one batch of 4."""
    template, model = _template(source), load_model(source)
    rows = [*_rows("t1", NUMBERS[:2]), *_rows("t4", NUMBERS[2:4], "no")]
    values = []
    for size, parts in ((2, 2), (4, 1)):
        config = dataclasses.replace(settings(batch_size=size, accumulation=parts), model=str(source))
        losses = StepLosses(model, {"user": Feed(config, rows, template)}, config, None)
        seen = {}
        values.append(sum(part.item() for part in losses.of_step(0, seen)("user", "ce")))
        assert seen["user"] == pytest.approx(values[-1])
    assert values[0] == pytest.approx(values[1], rel=1e-6)


class Fixed(nn.Module):
    """A model whose logits are given, the same at every place."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, input_ids, attention_mask):
        class Output:
            logits = self.logits.expand(*input_ids.shape, -1)

        return Output


def test_divergence_in_closed_form():
    batch = {"input_ids": torch.zeros(1, 3, dtype=torch.int64), "attention_mask": torch.ones(1, 3),
             "labels": torch.tensor([[-100, 1, 0]])}  # fmt: skip
    p, q = [0.5, 0.5], [0.9, 0.1]
    model = Fixed([math.log(value) for value in q])
    loss = divergence(model, Fixed([math.log(value) for value in p]), batch)
    assert loss.item() == pytest.approx(0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1))
    loss.backward()
    torch.testing.assert_close(model.logits.grad, torch.tensor(q) - torch.tensor(p))  # d KL(p, softmax z) / dz = q - p
    assert divergence(model, model, batch).item() == pytest.approx(0.0, abs=1e-7)


def test_kept_weights_of_adapters_are_merged_and_the_adapters_begin_again(tmp_path, source):
    model = load_model(source)
    torch.manual_seed(0)
    add_lora(model, rank=2)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_()
    cell = tmp_path / "cells" / "x-0123456789ab"
    cell.mkdir(parents=True)
    keep_model(cell, model.eval(), source)
    tokens = torch.arange(8)[None]
    with torch.no_grad():
        expected, merged = model(tokens).logits, load_model(weights_dir(cell))(tokens).logits
        torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-5)
        again = load_model(source)
        add_lora(again, rank=2)
        assert not torch.allclose(again(tokens).logits, expected)
        load_adapters(cell, again)
        assert torch.equal(again(tokens).logits, expected)


def test_long_rows_are_refused_without_their_text(source):
    config = dataclasses.replace(settings(sequence_length=10), model=str(source))
    with pytest.raises(ValueError, match=r"^6 of 6 rows have more than sequence_length=10 tokens \(.* 11\)"):
        Feed(config, _rows("t1", NUMBERS[:6]), _template(source))


def test_what_was_killed_after_its_last_step_is_finished_from_the_checkpoint(tmp_path, source, monkeypatch):
    """The state of the defense and the passes are those of the checkpoint."""
    whole, first = trained(tmp_path / "whole", source, "counted", settings(), probe_every=2)
    _, cut = job(tmp_path / "cut", source, "counted", settings(), probe_every=2)
    monkeypatch.setattr("subspace_lab.studies.safety.recipes._finished", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cut.trained(resume=False)
    monkeypatch.undo()
    directory = tmp_path / "cut" / "cells" / "x-000000000000"
    assert checkpoint_path(directory, STEPS).is_file()
    model, made = job(tmp_path / "cut", source, "counted", settings(), probe_every=2)
    made.trained(resume=True)
    assert all(map(torch.equal, model.parameters(), whole.parameters()))
    assert (made._steps.passes, made._steps.probes) == (first._steps.passes, first._steps.probes)
    assert made._run.state == {"0.seen": STEPS}


def test_spaces_of_gradients_are_those_of_four_batches_at_the_start_the_middle_and_the_end(tmp_path, source):
    """Against gradients by `backward` and singular vectors, at the weights that the training began and ended with."""
    # One row in a batch, so that the second sample of safety rows is another one than the first.
    config = settings(batch_size=1, accumulation=None)
    ended, made = trained(tmp_path, source, "none", config, probe_every=2)
    rows = made._steps.overlaps
    assert list(dict.fromkeys(row["step"] for row in rows)) == [0, STEPS // 2, STEPS]
    for step, model in ((0, load_model(source)), (STEPS, ended)):
        spaces = {
            "safety": _top_space(made, model, "safety", step), "user": _top_space(made, model, "user", step),
            "harm": _top_space(made, model, "harm", step), "again": _top_space(made, model, "safety", step + 4),
        }  # fmt: skip
        of = {row["pair"]: row for row in rows if row["step"] == step and row["layer"] == _LAYER}
        assert list(of) == ["safety-user", "safety-harm", "safety-again", "user-harm"]
        for pair, row in of.items():
            U, V = (spaces[name] for name in pair.split("-"))
            ranks = U.shape[1], V.shape[1]
            assert (row["rank_a"], row["rank_b"]) == ranks
            assert row["overlap"] == pytest.approx(float((U.T @ V).square().sum()) / min(ranks), abs=3e-6)
            assert row["null_overlap"] == max(ranks) / 64


def test_spaces_of_gradients_are_left_alone_where_there_is_a_defense_or_no_look(tmp_path, source):
    for text, every in (("rehearsal", 2), ("none", None)):
        _, made = trained(tmp_path / f"{text}{every}", source, text, settings(), probe_every=every)
        assert made._steps.overlaps == []


def test_spaces_are_in_the_checkpoint(tmp_path, source):
    _, made = trained(tmp_path, source, "none", settings(), probe_every=2)
    _, other = job(tmp_path / "other", source, "none", settings(), 2)
    other._steps.load_state_dict(made._steps.state_dict())
    assert other._steps.overlaps == made._steps.overlaps != []


_LAYER = "model.layers.1.mlp.down_proj.weight"


def _top_space(made, model, kind, first):
    config, feed = made._config, made._feeds[kind]
    micro, size = config.accumulation or 1, config.batch_size
    seed = config.seed if kind == "user" else int(
        np.random.SeedSequence([config.seed, ["user", "safety", "harm"].index(kind)]).generate_state(1)[0]
    )  # fmt: skip
    total = 0.0
    for step in range(first, first + 4):
        batches = [feed.batch((step * micro + k) * size, size, seed=seed) for k in range(micro)]
        tokens = [int((batch["labels"][:, 1:] != -100).sum()) for batch in batches]
        for batch, count in zip(batches, tokens, strict=True):
            total = total + model(**batch).loss * count / sum(tokens) / 4
    model.zero_grad()
    total.backward()
    gradient = model.get_parameter(_LAYER).grad.double()
    gradient = gradient if gradient.shape[0] <= gradient.shape[1] else gradient.T
    U, S, _ = torch.linalg.svd(gradient)
    return U[:, : int((S.square().cumsum(0) / S.square().sum() < 0.9).sum()) + 1]
