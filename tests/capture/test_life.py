"""A capture from its beginning to its end: resuming, refusing, closing."""

import copy
import sys

import pytest
import torch

import subspace_lab as sl
from tests.capture.helpers import (
    batches,
    files,
    mlp,
    tiny_llama,
    train,
)


def interrupted(directory, keep="gram"):
    """Four of six steps, killed in the fifth; returns the checkpoint at step 3."""
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    saved = {}

    def after(number):
        if number == 2:
            saved.update(copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict()}))
        if number == 3:
            raise KeyboardInterrupt

    capture = sl.GradientCapture(model, directory, every=1, keep=keep)
    capture.attach(optimizer)
    with pytest.raises(KeyboardInterrupt), capture:
        train(model, optimizer, batches(6), capture, after)
    return saved


def resumed(directory, saved, data, start_step=3, **options):
    model = mlp(seed=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    with sl.GradientCapture(model, directory, every=1, resume=True, **options) as capture:
        capture.attach(optimizer, start_step=start_step)
        train(model, optimizer, data, capture)


def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path):
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    with sl.GradientCapture(model, tmp_path / "whole", every=1) as capture:
        capture.attach(optimizer)
        train(model, optimizer, batches(6), capture)
    saved = interrupted(tmp_path / "parts")
    run = sl.Run.open(tmp_path / "parts")
    assert (run.steps, run.manifest["finished"]) == ([0, 1, 2, 3], False)
    resumed(tmp_path / "parts", saved, batches(6)[3:])
    assert sl.Run.open(tmp_path / "parts").manifest["finished"]
    whole, parts = files(tmp_path / "whole"), files(tmp_path / "parts")
    whole.pop("manifest.json"), parts.pop("manifest.json")
    assert parts == whole


def test_a_resumed_run_that_goes_another_way_is_refused_and_loses_nothing(tmp_path):
    saved = interrupted(tmp_path / "run")
    before = files(tmp_path / "run")
    with pytest.warns(UserWarning, match=r"step_00000003.safetensors differs from the snapshot taken now"):
        resumed(tmp_path / "run", saved, batches(6, seed=9)[3:])
    with pytest.warns(UserWarning, match=r"step_00000000.safetensors differs"):  # start_step forgotten
        resumed(tmp_path / "run", saved, batches(6)[3:], start_step=0)
    with pytest.raises(sl.RunError, match=r"step_00000000.safetensors differs"):
        resumed(tmp_path / "run", saved, batches(6)[3:], start_step=0, on_error="raise")
    assert files(tmp_path / "run") == before


def test_a_second_capture_is_refused(tmp_path):
    with sl.GradientCapture(mlp(), tmp_path / "run"):
        pass
    before = files(tmp_path)
    with pytest.raises(
        sl.RunError,
        match=r"already holds a run; resume it with --resume \(resume=True in Python\), or choose another directory",
    ):
        sl.GradientCapture(mlp(), tmp_path / "run")
    with pytest.raises(sl.RunError, match="captured otherwise"):
        sl.GradientCapture(mlp(), tmp_path / "run", every=3, resume=True)
    with pytest.raises(sl.RunError, match="captured otherwise"):
        sl.GradientCapture(tiny_llama(), tmp_path / "run", resume=True)
    with pytest.raises(sl.RunError, match="does not exist"):
        sl.GradientCapture(mlp(), tmp_path / "none", resume=True)
    assert files(tmp_path) == before


def test_wrong_arguments_leave_nothing_behind(tmp_path):
    wrong = [{"every": 0}, {"every": 2.5}, {"every": True}, {"keep": "all"}, {"side": "up"}, {"layers": "x*"}]
    for arguments in [*wrong, {"config": {"a": object()}}]:
        with pytest.raises(ValueError, match=r"every|keep|side|layers|config, seeds, data_hash, evaluation or plan"):
            sl.GradientCapture(mlp(), tmp_path / "run", **arguments)
    assert not list(tmp_path.rglob("*.*"))


def test_closing_removes_the_hook_and_is_idempotent(tmp_path):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    capture = sl.GradientCapture(model, tmp_path / "run", every=1)
    capture.attach(optimizer)
    assert len(optimizer._optimizer_step_pre_hooks) == 1
    train(model, optimizer, batches(1))
    capture.close()
    capture.close(finished=False)
    assert len(optimizer._optimizer_step_pre_hooks) == 0
    train(model, optimizer, batches(1))
    run = sl.Run.open(tmp_path / "run")
    assert (run.steps, run.manifest["finished"]) == ([0], True)
    for use in (lambda: capture.step(1), lambda: capture.log(loss=1.0), lambda: capture.attach(optimizer)):
        with pytest.raises(ValueError, match="is closed; to go on, make a new one with resume=True"):
            use()


def test_one_capture_has_one_source_of_steps(tmp_path):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sl.GradientCapture(model, tmp_path / "run") as capture:
        capture.attach(optimizer)
        for again in (lambda: capture.attach(optimizer), capture.hf_callback, capture.lightning_callback):
            with pytest.raises(ValueError, match=r"this capture gets its steps from attach\(\) already; use one way"):
                again()
        with pytest.raises(ValueError, match=r"step\(\): this capture gets its steps from attach\(\)"):
            capture.step(0)
    assert not optimizer._optimizer_step_pre_hooks


@pytest.mark.parametrize("step", [-1, 1.5, "3", None, 4])
def test_steps_increase(step, tmp_path):
    with sl.GradientCapture(mlp(), tmp_path / "run", every=100) as capture:
        capture.step(4)
        with pytest.raises(ValueError, match=r"step 4 after step 4: steps of one|must be a whole number of at least 0"):
            capture.step(step)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"loss": torch.ones(3)},
            r"log\(loss=...\) takes a number, a string or a boolean, got a tensor of shape \(3,\)",
        ),
        ({"extra": [1]}, r"log\(extra=...\) takes .* got list"),
        ({"step": 3}, "the step is counted by the capture"),
        ({"clipped": "maybe"}, r"log\(clipped=...\) takes True, False or 'unknown', got 'maybe'"),
    ],
)
def test_values_that_cannot_be_logged(values, message, tmp_path):
    with sl.GradientCapture(mlp(), tmp_path / "run") as capture, pytest.raises(ValueError, match=message):
        capture.log(**values)


@pytest.mark.parametrize(
    ("package", "extra", "make"),
    [("transformers", "hf", "hf_callback"), ("lightning.pytorch", "lightning", "lightning_callback")],
)
def test_a_framework_that_is_not_installed_names_the_extra(package, extra, make, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with sl.GradientCapture(mlp(), tmp_path / "run") as capture:
        with pytest.raises(ModuleNotFoundError, match=rf"{package} is not installed; run: .*\[{extra}\]"):
            getattr(capture, make)()
        capture.step(1)  # it stays usable
