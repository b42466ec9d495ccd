"""Real processes: Ctrl-C, and several that train together."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from subspace_lab.runs import Run
from subspace_lab.training import train
from subspace_lab.training.tokens import load_tokens
from tests.training.test_loop import parameters_after
from tests.training.tiny import tiny_config

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}


def start(run_dir, config, *, launcher=("-m",), **pipes):
    command = [sys.executable, *launcher, "tests.training.worker", str(run_dir), json.dumps(config.to_dict())]
    return subprocess.Popen(command, env={**os.environ, **ENVIRONMENT}, text=True, **pipes)


def wait_for_line(run_dir, process):
    """Until the first step was taken."""
    deadline = time.monotonic() + 300
    metrics = run_dir / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ctrl_c_says_how_to_resume_and_the_run_is_sound(tmp_path, text):
    config = tiny_config(text, steps=100_000, eval_every=None)
    process = start(tmp_path / "run", config, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for_line(tmp_path / "run", process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130
    run = Run.open(tmp_path / "run")
    step = len(run.metrics)
    assert out == f"interrupted at step {step}; resume with: subspace-lab train {run.path} --resume\n"
    assert "press Ctrl-C again to stop at once" in err
    assert parameters_after(run.path, step)
    assert run.verify() == (step - 1) // 3 + 1


def test_a_second_ctrl_c_kills_at_once(tmp_path, text):
    """The step that would have to be finished first takes hours."""
    config = tiny_config(text, steps=2, accumulation=10**9, batch_size=1, eval_every=None)
    load_tokens(config.resolved())  # which would be told on a line of its own
    process = start(tmp_path / "run", config, stderr=subprocess.PIPE)
    while not (tmp_path / "run" / "manifest.json").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert "Ctrl-C again" in process.stderr.readline() + process.stderr.readline()
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGINT
    assert Run.open(tmp_path / "run").manifest["finished"] is False


@pytest.mark.slow
def test_two_processes_give_the_run_of_one(tmp_path, text):
    config = tiny_config(text, keep="full", every=4)
    load_tokens(config.resolved())
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m")
    process = start(tmp_path / "two", config, launcher=torchrun, stderr=subprocess.PIPE)
    one = Run.open(train(tmp_path / "one", config))
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    two = Run.open(tmp_path / "two")
    assert two.steps == one.steps == [0, 4, 8]
    for column in ("loss", "grad_norm", "eval_loss", "lr", "tokens"):
        np.testing.assert_allclose(two.metrics[column], one.metrics[column], rtol=1e-4)
    for step in one.steps:
        for layer in one.layers["name"]:
            torch.testing.assert_close(two.gradient(step, layer), one.gradient(step, layer), rtol=1e-3, atol=1e-5)
    expected, found = parameters_after(one.path, 12), parameters_after(two.path, 12)
    assert found.keys() == expected.keys()
    for name, parameter in expected.items():
        torch.testing.assert_close(found[name], parameter, rtol=1e-3, atol=1e-4)


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path, text):
    from subspace_lab.training.sequences import Sequences
    from subspace_lab.training.tasks.language import LanguageTask
    from subspace_lab.training.trainer import Trainer
    from subspace_lab.training.workers import Workers

    config = tiny_config(text, batch_size=3).resolved()
    team = Workers(0, 2, torch.device("cpu"))
    task = LanguageTask(config, Sequences(np.zeros(1000, np.uint16), 16, hold_out=True), team)
    with pytest.raises(ValueError, match="batch_size=3 is not a multiple of the 2 processes"):
        Trainer(config, task, team)
