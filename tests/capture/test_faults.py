"""Bad gradients, names and disks: recorded or refused in one line, and nothing lost."""

import copy
import resource
import warnings

import pytest
import torch
from torch import nn

import subspace_lab as sl
from tests.capture.helpers import (
    batches,
    context,
    files,
    mlp,
    mlp_loss,
    train,
)


@pytest.mark.parametrize("keep", ["full", "gram", "topk:2", "stats"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_nonfinite_gradient_is_recorded_and_training_goes_on(bad, keep, tmp_path):
    model, data = mlp(), batches(3)
    optimizer, start = torch.optim.SGD(model.parameters(), lr=0.1), copy.deepcopy(model.state_dict())
    with sl.GradientCapture(model, tmp_path / "run", every=1, keep=keep) as capture:
        capture.attach(optimizer)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            for batch in data:
                mlp_loss(model, batch).backward()
                model["up_proj"].weight.grad[[0, 3], [1, 5]] = bad
                optimizer.step()
                optimizer.zero_grad()
                model.load_state_dict(start)
    assert [str(one.message)[:64] for one in caught if one.category is UserWarning] == [
        "step 0: the gradient of up_proj.weight has 2 non-finite entries;"
    ]
    run = sl.Run.open(tmp_path / "run")
    assert run.verify() == 3
    for step in range(3):
        assert context(run, step)["nonfinite"] == {"up_proj.weight": 2}
        with run.snapshot(step) as snapshot:
            part = {"full": "gradient", "gram": "gram_left"}.get(keep, "singular_values")
            assert snapshot.get(part, "up_proj.weight") is None
            assert snapshot.get(part, "down_proj.weight").isfinite().all()
    with pytest.raises(sl.RunError, match="had 2 non-finite entries and was not kept"):
        run.gram(1, "up_proj.weight")


def test_a_finite_gradient_whose_squares_overflow(tmp_path):
    model = nn.ModuleDict({"q_proj": nn.Linear(3, 2, bias=False)})
    model["q_proj"].weight.grad = torch.tensor([[1e30, 0.0, 0.0], [0.0, 1.0, 0.0]])
    with sl.GradientCapture(model, tmp_path / "gram") as capture, pytest.warns(UserWarning, match="non-finite"):
        capture.step(0)
    assert context(sl.Run.open(tmp_path / "gram"), 0)["nonfinite"] == {"q_proj.weight": 1}
    for keep in ("full", "stats"):
        with sl.GradientCapture(model, tmp_path / keep, keep=keep) as capture:
            capture.step(0)
        assert context(sl.Run.open(tmp_path / keep), 0)["nonfinite"] == {}


def test_a_layer_without_gradient_is_missing(tmp_path):
    model = mlp()
    model["unused"] = nn.Linear(3, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sl.GradientCapture(model, tmp_path / "run", keep="full") as capture, warnings.catch_warnings():
        warnings.simplefilter("error")
        capture.attach(optimizer)
        train(model, optimizer, batches(1))
    run = sl.Run.open(tmp_path / "run")
    assert context(run, 0)["missing"] == ["unused.weight"]
    with pytest.raises(sl.RunError, match=r"unused.weight: the layer had no gradient in this step"):
        run.gradient(0, "unused.weight")


def test_no_gradient_at_all_is_warned_about_once(tmp_path):
    with (
        sl.GradientCapture(mlp(), tmp_path / "run", every=1) as capture,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always", UserWarning)
        capture.step(0)
        capture.step(1)
    assert [str(one.message)[:49] for one in caught if one.category is UserWarning] == [
        "step 0: no captured layer has a gradient; capture"
    ]
    assert context(sl.Run.open(tmp_path / "run"), 1)["grad_norm"] is None


@pytest.mark.parametrize("layers", [3, [3], [mlp()], ("up_proj.weight", None)])
def test_patterns_that_are_no_text_are_refused(layers, tmp_path):
    with pytest.raises(ValueError, match=r"layers takes patterns on parameter names, such as '\*\.mlp\.\*', got "):
        sl.GradientCapture(mlp(), tmp_path / "run", layers=layers)
    assert not (tmp_path / "run").exists()


def test_the_model_comes_first(tmp_path):
    with pytest.raises(TypeError, match=r"^GradientCapture\(model, path\) takes the model first, got str$"):
        sl.GradientCapture(str(tmp_path / "run"), mlp())


def test_a_gradient_of_another_shape_is_missing(tmp_path):
    model = mlp()
    with sl.GradientCapture(model, tmp_path / "run") as capture:
        model["up_proj"].weight = nn.Parameter(torch.ones(5))  # as sharding into flat parameters does
        model["up_proj"].weight.grad = torch.ones(5)
        with pytest.warns(UserWarning, match=r"up_proj.weight has shape \(5,\), its parameter had \(12, 8\) \(shard"):
            capture.step(0)
    assert context(sl.Run.open(tmp_path / "run"), 0)["missing"] == ["up_proj.weight", "down_proj.weight"]


def test_layer_names_never_become_paths(tmp_path):
    names = ["../../escape", "/abs", "a/b", 'quote"d', "it's", "<b>bold</b>", "tab\tnew\nline", "grün:colon"]
    model = nn.Module()
    for name in names:
        model._modules[name] = nn.Linear(2, 3, bias=False)  # add_module refuses dots, and nothing else
    for parameter in model.parameters():
        parameter.grad = torch.randn(3, 2)
    with sl.GradientCapture(
        model, tmp_path / "deep" / "er" / "run", keep="full", layers=["*", "a/b.weight"]
    ) as capture:
        capture.step(0)
    run = sl.Run.open(tmp_path / "deep" / "er" / "run")
    assert run.verify() == 1
    for name, module in model.named_children():
        assert torch.equal(run.gradient(0, f"{name}.weight"), module.weight.grad)
    assert set(files(tmp_path)) == {
        f"deep/er/run/{file}" for file in ("manifest.json", "metrics.jsonl", "snapshots/step_00000000.safetensors")
    }


def test_a_full_disk_is_one_line_and_published_snapshots_stay(tmp_path):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with sl.GradientCapture(model, tmp_path / "run", every=1, keep="full") as capture:
        capture.attach(optimizer)
        train(model, optimizer, batches(1), capture)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
        try:
            with pytest.warns(UserWarning, match=r"cannot write .*step_00000001.safetensors: .*; free some") as said:
                train(model, optimizer, batches(3), capture)  # which the capture does not end
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [("\n" in str(one.message), "the training goes on" in str(one.message)) for one in said] == [(False, True)]
    run = sl.Run.open(tmp_path / "run")
    assert (run.steps, run.verify()) == ([0], 1)
