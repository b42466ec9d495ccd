"""Resuming: bit for bit the run that was not interrupted, or a clear refusal."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from subspace_lab.capture import GradientCapture
from subspace_lab.runs import Run, RunError
from subspace_lab.training import TrainingInterrupted, train
from subspace_lab.training.checkpoint import checkpoint_path, checkpoint_steps
from subspace_lab.training.sources import find_source
from subspace_lab.training.tokens import _train_bpe
from tests.training.tiny import tiny_config, write_text


@pytest.fixture
def config(text):
    return tiny_config(text)


@pytest.fixture
def whole(tmp_path, config):
    """A run that was not interrupted."""
    return train(tmp_path / "whole", config)


def press_ctrl_c_in(step, monkeypatch):
    """Ctrl-C while a step is captured."""
    real = GradientCapture.step

    def pressed(self, now):
        real(self, now)
        if now == step:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(GradientCapture, "step", pressed)


def interrupted(run_dir, config, step, monkeypatch):
    with monkeypatch.context() as patch:
        press_ctrl_c_in(step, patch)
        with pytest.raises(TrainingInterrupted) as caught:
            train(run_dir, config)
    return caught.value


def content(run_dir):
    """All that a run must repeat: snapshots and the last checkpoint byte for byte, metrics without times.

    What a step did outside of the subspace is told in the line after it, which a resumed run begins without.
    """
    last = checkpoint_path(run_dir, checkpoint_steps(run_dir)[-1])
    snapshots = {path.name: path.read_bytes() for path in (run_dir / "snapshots").iterdir()}
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("seconds")
        for name in ("refresh_seconds", "bulk_share", "recovery_share", "limiter", "limited_share"):
            line.pop(name, None)
    return {"last": (last.name, last.read_bytes()), "snapshots": snapshots, "metrics": lines}


@pytest.mark.parametrize("step", [0, 5, 7, 10])
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, config, whole, monkeypatch, step):
    error = interrupted(tmp_path / "run", config, step, monkeypatch)
    assert str(error) == f"interrupted at step {step + 1}; resume with: subspace-lab train {tmp_path / 'run'} --resume"
    run = Run.open(tmp_path / "run")
    assert run.manifest["finished"] is False
    assert run.verify() == step // 3 + 1
    assert checkpoint_steps(run.path)[-1] == step + 1
    train(run.path, None if step % 2 else config, resume=True)
    assert content(run.path) == content(whole)
    assert Run.open(run.path).manifest["finished"] is True


def test_a_pretrained_model_with_dropout_goes_on_to_the_same_bits(tmp_path, text, monkeypatch):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(2)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 32, "vocab_size": 300}
    model = GPT2LMHeadModel(GPT2Config(resid_pdrop=0.3, attn_pdrop=0.0, embd_pdrop=0.0, **sizes))
    model.save_pretrained(tmp_path / "gpt2")
    model.config.resid_pdrop = 0.0
    model.save_pretrained(tmp_path / "plain")
    tokenizer = tmp_path / "gpt2" / "own.json"
    tokenizer.write_text(_train_bpe(find_source(str(text)), tiny_config(text, vocab_size=300)))
    config = tiny_config(text, preset=None, model=str(tmp_path / "gpt2"), tokenizer=str(tokenizer))
    whole = train(tmp_path / "whole", config)
    assert len(Run.open(whole).layers) == 8
    interrupted(tmp_path / "run", config, 5, monkeypatch)
    train(tmp_path / "run", resume=True)
    assert content(tmp_path / "run") == content(whole)
    plain = train(tmp_path / "without", replace(config, model=str(tmp_path / "plain")))
    assert Run.open(plain).metrics["eval_loss"][0] == Run.open(whole).metrics["eval_loss"][0]
    assert Run.open(plain).metrics["loss"][0] != Run.open(whole).metrics["loss"][0]  # dropout was on


def test_without_a_checkpoint_it_begins_again_and_repeats_the_snapshots(tmp_path, config, whole, monkeypatch):
    run_dir = tmp_path / "run"
    interrupted(run_dir, config, 7, monkeypatch)
    for step in checkpoint_steps(run_dir):
        checkpoint_path(run_dir, step).unlink()
    before = {path: path.stat().st_mtime_ns for path in (run_dir / "snapshots").iterdir()}
    train(run_dir, resume=True)
    assert content(run_dir) == content(whole)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_a_snapshot_that_is_not_repeated_stops_the_run(tmp_path, config, monkeypatch):
    run_dir = tmp_path / "run"
    interrupted(run_dir, config, 7, monkeypatch)
    (run_dir / "snapshots" / "step_00000006.safetensors").unlink()
    (run_dir / "snapshots" / "step_00000003.safetensors").rename(run_dir / "snapshots" / "step_00000006.safetensors")
    for step in checkpoint_steps(run_dir):
        checkpoint_path(run_dir, step).unlink()
    with pytest.raises(RunError, match="step_00000006"):
        train(run_dir, resume=True)


def test_ctrl_c_in_the_last_step_just_finishes(tmp_path, config, whole, monkeypatch):
    with monkeypatch.context() as patch:
        press_ctrl_c_in(11, patch)
        train(tmp_path / "run", config)
    assert content(tmp_path / "run") == content(whole)


def test_the_handler_of_ctrl_c_is_given_back(tmp_path, config, monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    interrupted(tmp_path / "run", config, 0, monkeypatch)
    assert signal.getsignal(signal.SIGINT) is before


def test_another_configuration_is_refused_by_name(tmp_path, config, monkeypatch):
    interrupted(tmp_path / "run", config, 2, monkeypatch)
    changed = tiny_config(config.data, steps=24, lr=1e-3)
    message = r"run began with other settings \(steps 12 -> 24; lr 0.003 -> 0.001\); resume with the same"
    with pytest.raises(RunError, match=message):
        train(tmp_path / "run", changed, resume=True)


def test_other_data_are_refused(tmp_path, monkeypatch):
    data = write_text(tmp_path / "words.txt", seed=1)
    interrupted(tmp_path / "run", tiny_config(data), 2, monkeypatch)
    write_text(data, seed=2)
    with pytest.raises(RunError, match=r"run began with other data \(hash \w{12}, now \w{12}\); restore data="):
        train(tmp_path / "run", resume=True)


def test_a_finished_run_says_so(whole):
    with pytest.raises(RunError, match="is finished: all of its 12 steps are done; there is nothing to resume"):
        train(whole, resume=True)


def test_what_is_no_training_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="does not exist"):
        train(tmp_path / "nowhere", resume=True)
    from torch import nn

    with GradientCapture(nn.Linear(2, 2), tmp_path / "captured"):
        pass
    with pytest.raises(RunError, match="was not begun by a training run"):
        train(tmp_path / "captured", resume=True)


def test_a_configuration_of_another_release_is_refused(tmp_path, config, monkeypatch):
    interrupted(tmp_path / "run", config, 2, monkeypatch)
    path = tmp_path / "run" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "config": {**manifest["config"], "momentum": 0.9}}))
    with pytest.raises(
        RunError, match=r"was not begun by a training run of this release .*'momentum'.*; start a new one"
    ):
        train(tmp_path / "run", resume=True)


def test_in_another_thread_nothing_is_caught_and_the_run_is_the_same(tmp_path, config, whole):
    with ThreadPoolExecutor(1) as executor:
        executor.submit(train, tmp_path / "run", config).result()
    assert content(tmp_path / "run") == content(whole)
