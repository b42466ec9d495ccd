"""A training that begins from the weights of another one."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from subspace_lab.experiments.recipe import RECIPES, WEIGHTS
from subspace_lab.runs import Run, RunError
from subspace_lab.training import train
from subspace_lab.training.checkpoint import model_tensors
from subspace_lab.training.models import build_model
from subspace_lab.training.sequences import Sequences
from subspace_lab.training.tokens import load_tokens
from tests.training.tiny import tiny_config


def trained(directory, config, parents=(), *, keeps_weights=False):
    return RECIPES["train"].run(directory, config.to_dict(), parents, resume=False, keeps_weights=keeps_weights)


def test_a_child_begins_where_its_parent_ended(tmp_path, text):
    config = tiny_config(
        text, steps=4, accumulation=1, every=None, eval_every=3, lr=1e-2, checkpoint_every=1
    ).resolved()
    trained(tmp_path / "base", config, keeps_weights=True)
    assert not [*(tmp_path / "base" / "checkpoints").iterdir()]
    last = model_tensors(train(tmp_path / "alone", config), config.steps)
    kept = load_file(tmp_path / "base" / WEIGHTS)
    assert kept.keys() == last.keys()
    assert all(torch.equal(kept[name], last[name]) for name in last)
    measured = trained(tmp_path / "child", config, [tmp_path / "base"])
    assert not (tmp_path / "child" / WEIGHTS).exists()
    model = build_model(config).eval()
    model.load_state_dict(load_file(tmp_path / "base" / WEIGHTS))
    rows = Sequences(load_tokens(config).tokens, 16, hold_out=True).held_out(config.eval_batches * config.batch_size)
    with torch.no_grad():
        expected = model(input_ids=rows, labels=rows).loss.item()
    metrics = Run.open(tmp_path / "child").metrics
    assert metrics["eval_loss"][0] == pytest.approx(expected, rel=1e-5)
    assert metrics["eval_loss"][0] != pytest.approx(Run.open(tmp_path / "base").metrics["eval_loss"][0], rel=1e-3)
    assert measured.metrics == {"eval_loss": metrics["eval_loss"].iloc[-1]}
    assert measured.state_bytes > 0


@pytest.mark.parametrize("change", ["a tensor more", "a tensor less", "another shape"])
def test_weights_of_another_model_are_refused(tmp_path, text, change):
    config = tiny_config(text, steps=2, every=None).resolved()
    trained(tmp_path / "base", config, keeps_weights=True)
    weights = load_file(tmp_path / "base" / WEIGHTS)
    name = next(iter(weights))
    if change == "a tensor more":
        weights["model.more"] = torch.zeros(2)
    elif change == "a tensor less":
        del weights[name]
    else:
        weights[name] = weights[name][:1].clone()
    save_file(weights, tmp_path / "base" / WEIGHTS)
    with pytest.raises(RunError, match=rf"{WEIGHTS} is of another model: [^\n]*$"):
        trained(tmp_path / "child", config, [tmp_path / "base"])
