"""A whole run against a literal twin: a plain PyTorch loop without any of the machinery."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from subspace_lab.runs import Run, RunError, RunLostError
from subspace_lab.training import start, stored_config, train
from subspace_lab.training.checkpoint import checkpoint_path
from subspace_lab.training.models import build_model
from subspace_lab.training.sequences import Sequences
from subspace_lab.training.tokens import load_tokens
from subspace_lab.training.trainer import Trainer
from tests.training.tiny import tiny_config


def twin(config):
    """Parameters, gradients by step, losses and norms of a run, by the book."""
    config = config.resolved()
    sequences = Sequences(load_tokens(config).tokens, config.sequence_length, hold_out=True)
    model = build_model(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, betas=(0.9, 0.999), weight_decay=config.weight_decay)
    count = config.batch_size * config.accumulation
    gradients, losses, norms = [], [], []
    for step in range(config.steps):
        tokens = sequences.batch(step * count, count, seed=config.seed)
        logits = model(tokens).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
        losses.append(loss.item())
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip or math.inf).item())
        progress = (step - config.warmup) / (config.steps - config.warmup)
        cosine = config.lr * (0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2)
        warm = config.lr * (step + 1) / (config.warmup + 1)
        optimizer.param_groups[0]["lr"] = warm if step < config.warmup else cosine
        optimizer.step()
        optimizer.zero_grad()
    return dict(model.named_parameters()), gradients, losses, norms


def parameters_after(run_dir, step):
    tensors = load_file(checkpoint_path(run_dir, step))
    return {name.removeprefix("model:"): tensor for name, tensor in tensors.items() if name.startswith("model:")}


@pytest.mark.parametrize(
    "changes", [{"clip": 0.5}, {"clip": None, "weight_decay": 0.1}, {"accumulation": 1, "batch_size": 4, "warmup": 5}]
)
def test_a_run_is_that_of_a_plain_loop(tmp_path, text, changes):
    config = tiny_config(text, keep="full", **changes)
    run = Run.open(train(tmp_path / "run", config))
    parameters, gradients, losses, norms = twin(config)
    assert run.steps == [0, 3, 6, 9]
    for step in run.steps:
        for layer in run.layers["name"]:
            torch.testing.assert_close(run.gradient(step, layer), gradients[step][layer], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(run.metrics["loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(run.metrics["grad_norm"], norms, rtol=1e-4)
    final = parameters_after(run.path, 12)
    assert final.keys() == parameters.keys()
    for name, parameter in parameters.items():
        torch.testing.assert_close(final[name], parameter.detach(), rtol=1e-4, atol=1e-5)


def test_what_is_written_beside_the_gradients(tmp_path, text):
    config = tiny_config(text)
    run = Run.open(train(tmp_path / "run", config))
    assert run.manifest["finished"] is True
    assert run.manifest["seeds"] == {"seed": 0}
    assert run.manifest["data_hash"] == load_tokens(config.resolved()).hash
    assert len(run.layers) == 14
    assert stored_config(run.path) == config.matched(stored_config(run.path))
    assert run.metrics["step"].tolist() == list(range(12))
    assert run.metrics["tokens"].tolist() == [64] * 12
    assert run.metrics["step"][run.metrics["eval_loss"].notna()].tolist() == [0, 5, 10, 11]
    with run.snapshot(3) as snapshot:
        context = snapshot.context
    line = run.metrics.iloc[3]
    assert (context["loss"], context["lr"], context["grad_norm"]) == (line["loss"], line["lr"], line["grad_norm"])
    assert (context["clipped"], context["accumulation"]) == ("false", 2)


def test_the_evaluation_is_the_loss_on_held_out_text(tmp_path, text):
    config = tiny_config(text, steps=1).resolved()
    run = Run.open(train(tmp_path / "run", config))
    sequences = Sequences(load_tokens(config).tokens, 16, hold_out=True)
    tokens = sequences.held_out(4)
    with torch.no_grad():
        logits = build_model(config)(tokens).logits[:, :-1]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert run.metrics["eval_loss"][0] == pytest.approx(expected.item(), rel=1e-5)


def test_without_captures_it_is_the_same_training(tmp_path, text):
    with_captures, without = (Run.open(train(tmp_path / f"{k}", tiny_config(text, every=k))) for k in (3, None))
    assert (with_captures.steps, without.steps) == ([0, 3, 6, 9], [])
    assert not (without.path / "snapshots").exists()
    assert without.metrics["loss"].tolist() == with_captures.metrics["loss"].tolist()
    last = [checkpoint_path(run.path, 12).read_bytes() for run in (with_captures, without)]
    assert last[0] == last[1]
    with pytest.raises(RunError, match=r"is finished"):
        train(without.path, tiny_config(text, every=None), resume=True)


def test_it_learns(tmp_path, text):
    run = Run.open(train(tmp_path / "run", tiny_config(text, steps=120, every=60, lr=1e-2, eval_every=119)))
    held_out = run.metrics["eval_loss"].dropna().tolist()
    assert held_out[0] == pytest.approx(math.log(300), abs=0.1)  # nothing is known yet
    assert held_out[-1] < math.log(20)  # there are 15 words


def test_bfloat16_gives_nearly_the_same_gradient(tmp_path, text):
    runs = [Run.open(train(tmp_path / precision, tiny_config(text, steps=1, keep="full", precision=precision)))
            for precision in ("float32", "bfloat16")]  # fmt: skip
    for layer in runs[0].layers["name"]:
        exact, half = (run.gradient(0, layer) for run in runs)
        assert half.dtype == torch.float32
        assert not torch.equal(exact, half)
        assert (exact - half).norm() < 0.05 * exact.norm()


def test_the_faster_precision_is_measured_once_and_kept(tmp_path, text, monkeypatch):
    config = tiny_config(text, precision="auto")
    monkeypatch.setattr(start, "faster_precision", lambda device: "bfloat16")
    run_dir = train(tmp_path / "run", config)
    assert stored_config(run_dir).precision == "bfloat16"
    assert config.matched(stored_config(run_dir)).precision == "bfloat16"


def test_the_callers_generator_and_threads_are_given_back(tmp_path, text):
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    train(tmp_path / "run", tiny_config(text, steps=1, threads=threads + 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_a_diverged_run_stops_with_one_line_and_stays_sound(tmp_path, text):
    with pytest.raises(RunError, match=r"run diverged at step \d+: loss .*; start again with a smaller lr") as caught:
        train(tmp_path / "run", tiny_config(text, lr=1e30, clip=None))
    assert "\n" not in str(caught.value)
    run = Run.open(tmp_path / "run")
    assert run.verify() >= 1
    assert run.manifest["finished"] is False


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adam"}, "no optimizer is called 'adam'; nearest: AdamW"),
        ({"preset": "llama-8m"}, "there is no preset 'llama-8m'; nearest: llama-"),
        ({"sequence_length": 100_000}, "less than one sequence to train on and one held out of 100000"),
        ({"layers": ("*.nothing.*",)}, "matches no parameter of LlamaForCausalLM; nearest: "),
        ({"keep": "all"}, "keep"),
        ({"data": "nowhere.txt"}, "'nowhere.txt' does not exist"),
        ({"vocab_size": 260, "tokenizer": "big"}, r"data have token \d+, the model knows 260"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, text, session_cache, changes, message):
    if changes.get("tokenizer") == "big":
        load_tokens(tiny_config(text).resolved())
        newest = max((session_cache / "subspace_lab").glob("tokenizer-*.json"), key=lambda path: path.stat().st_size)
        changes = {**changes, "tokenizer": str(newest)}
    with pytest.raises(ValueError, match=message) as caught:
        train(tmp_path / "run", tiny_config(text, **changes))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_an_existing_run_is_refused_before_any_work(tmp_path, text, monkeypatch):
    train(tmp_path / "run", tiny_config(text, steps=1))
    with pytest.raises(RunError, match="already holds a run"):
        train(tmp_path / "run", tiny_config("nowhere.txt"))


def gone(run_dir):
    run_dir.rename(run_dir.with_name("moved"))


def replaced(run_dir):
    run_dir.rename(run_dir.with_name("moved"))
    shutil.copytree(run_dir.with_name("moved"), run_dir)


@pytest.mark.parametrize("change", [gone, replaced])
@pytest.mark.parametrize("when", ["backward", "update"])
def test_a_training_ends_with_its_directory(tmp_path, text, monkeypatch, change, when):
    real, steps = getattr(Trainer, when), []

    def call(self, step, *others):
        steps.append(step)
        if step == 7:  # a checkpoint is due after it, and no snapshot
            change(tmp_path / "run")
            seen.extend(sorted(tmp_path.rglob("*")))
        return real(self, step, *others)

    seen: list[Path] = []
    monkeypatch.setattr(Trainer, when, call)
    with pytest.raises(RunLostError, match=r"while it was being written; nothing more is written there: begin again"):
        train(tmp_path / "run", tiny_config(text))
    assert steps[-1] == 7
    assert {path for path in tmp_path.rglob("*") if path.name != ".lock"} == {p for p in seen if p.name != ".lock"}
