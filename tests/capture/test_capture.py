"""Plain loops: what is captured, when, and what is written beside it."""

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn

import subspace_lab as sl
from tests.capture.helpers import (
    ConvNet,
    batches,
    context,
    files,
    mean_gradients,
    mlp,
    mlp_loss,
    relative_error,
    tiny_gpt2,
    tiny_llama,
    train,
)


def test_plain_loop_with_accumulation_and_clipping(tmp_path):
    model, data = mlp(), batches(14)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    expected, norms = {}, {}
    with sl.GradientCapture(model, tmp_path / "run", every=3, keep="full") as capture:
        capture.attach(optimizer)
        for step in range(7):
            pair = data[2 * step : 2 * step + 2]
            expected[step] = mean_gradients(model, mlp_loss, pair)
            for batch in pair:
                (mlp_loss(model, batch) / 2).backward()
            norms[step] = nn.utils.clip_grad_norm_(model.parameters(), 0.05)
            capture.log(grad_norm=norms[step], clipped=True, accumulation=2)
            optimizer.step()
            optimizer.zero_grad()
    run = sl.Run.open(tmp_path / "run")
    assert run.steps == [0, 3, 6]
    assert run.verify() == 3
    for step in run.steps:
        norm = torch.stack([g.double().norm() for g in expected[step].values()]).norm()
        factor = 0.05 / (norm + 1e-6)
        assert factor < 1
        for layer in ("up_proj.weight", "down_proj.weight"):
            assert relative_error(run.gradient(step, layer), factor * expected[step][layer]) < 1e-6
        assert context(run, step)["grad_norm"] == pytest.approx(float(norm), rel=1e-6)


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
@pytest.mark.parametrize("keep", ["full", "gram"])
def test_transformers_models(make, keep, tmp_path):
    model = make()
    tokens = torch.randint(29, (2, 8), generator=torch.Generator().manual_seed(3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    expected = {}
    with sl.GradientCapture(model, tmp_path / "run", every=1, keep=keep) as capture:
        capture.attach(optimizer)
        for step in range(2):
            expected[step] = mean_gradients(model, lambda m, x: m(input_ids=x, labels=x).loss, [tokens])
            model(input_ids=tokens, labels=tokens).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    run = sl.Run.open(tmp_path / "run")
    for step in run.steps:
        for layer in run.layers.itertuples():
            G = expected[step][layer.name].double()
            if keep == "full":
                assert relative_error(run.gradient(step, layer.name), G) < 1e-6
            C = G @ G.T if layer.side == "left" else G.T @ G
            assert relative_error(run.gram(step, layer.name), C) < 1e-5
            if layer.rows == layer.cols:
                assert relative_error(run.gram(step, layer.name, "right"), G.T @ G) < 1e-5


def test_convolutions_keep_their_shape_and_are_flattened_for_the_gram(tmp_path):
    model = ConvNet().to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 9, 9).to(memory_format=torch.channels_last)

    def loss_fn(m, x):
        return m(x).square().mean()

    expected = mean_gradients(model, loss_fn, [images])
    loss_fn(model, images).backward()
    for keep in ("full", "gram"):
        with sl.GradientCapture(model, tmp_path / keep, keep=keep) as capture:
            capture.step(0)
    full, gram = sl.Run.open(tmp_path / "full"), sl.Run.open(tmp_path / "gram")
    for name in ("features.0.weight", "features.3.weight", "head.weight"):
        G = expected[name]
        assert full.gradient(0, name).shape == G.shape
        assert relative_error(full.gradient(0, name), G) < 1e-6
        flat = G.double().reshape(G.shape[0], -1)
        assert (
            relative_error(gram.gram(0, name), flat @ flat.T if flat.shape[0] <= flat.shape[1] else flat.T @ flat)
            < 1e-5
        )


@pytest.mark.parametrize("keep", ["topk:2", "stats"])
def test_topk_and_stats_of_a_training_step(keep, tmp_path):
    model, data = mlp(), batches(1)
    expected = mean_gradients(model, mlp_loss, data)
    with sl.GradientCapture(model, tmp_path / "run", keep=keep) as capture:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        capture.attach(optimizer)
        train(model, optimizer, data)
    with sl.Run.open(tmp_path / "run").snapshot(0) as snapshot:
        for layer in ("up_proj.weight", "down_proj.weight"):
            G = expected[layer].double()
            U, sigma, _ = torch.linalg.svd(G if G.shape[0] <= G.shape[1] else G.T, full_matrices=False)
            got = snapshot.get("singular_values", layer).double()
            torch.testing.assert_close(got, sigma, rtol=1e-5, atol=1e-6 * float(sigma[0]))
            basis = snapshot.get("basis", layer)
            assert (basis is None) == (keep == "stats")
            if basis is not None:
                projector = basis.double() @ basis.double().T
                torch.testing.assert_close(projector, U[:, :2] @ U[:, :2].T, rtol=0, atol=1e-5)


@pytest.mark.parametrize("keep", ["full", "gram"])
def test_half_precision_gradients(keep, tmp_path):
    model = mlp().bfloat16()
    batch = tuple(t.bfloat16() for t in batches(1)[0])
    expected = mean_gradients(model, mlp_loss, [batch])
    mlp_loss(model, batch).backward()
    with sl.GradientCapture(model, tmp_path / "run", keep=keep) as capture, torch.autocast("cpu", dtype=torch.bfloat16):
        capture.step(0)
    run = sl.Run.open(tmp_path / "run")
    assert context(run, 0)["dtype"] == "bfloat16"
    for layer in ("up_proj.weight", "down_proj.weight"):
        G = expected[layer].double()
        C = run.gram(0, layer)
        assert C.dtype == torch.float32
        assert relative_error(C, G @ G.T if G.shape[0] <= G.shape[1] else G.T @ G) < 1e-6
        if keep == "full":
            assert torch.equal(run.gradient(0, layer), expected[layer])


def test_sparse_gradients_are_made_dense(tmp_path):
    torch.manual_seed(0)
    dense, tokens = nn.Embedding(11, 4), torch.tensor([3, 3, 7])
    sparse = nn.Embedding(11, 4, sparse=True)
    sparse.load_state_dict(dense.state_dict())
    (expected,) = torch.autograd.grad(dense(tokens).pow(3).sum(), dense.weight)
    sparse(tokens).pow(3).sum().backward()
    assert sparse.weight.grad.is_sparse
    with sl.GradientCapture(sparse, tmp_path / "run", keep="full") as capture:
        capture.step(0)
    run = sl.Run.open(tmp_path / "run")
    assert torch.equal(run.gradient(0, "weight"), expected)
    assert context(run, 0)["grad_norm"] == pytest.approx(float(expected.norm()))


def test_parameters_are_looked_up_when_they_are_read(tmp_path):
    model, batch = mlp(), batches(1)[0]
    capture = sl.GradientCapture(model, tmp_path / "run", keep="full")
    model["up_proj"].weight = nn.Parameter(model["up_proj"].weight.detach() * 2)
    expected = mean_gradients(model, mlp_loss, [batch])
    mlp_loss(model, batch).backward()
    with capture:
        capture.step(0)
    assert (
        relative_error(sl.Run.open(tmp_path / "run").gradient(0, "up_proj.weight"), expected["up_proj.weight"]) < 1e-6
    )


def test_every_step_has_a_metrics_line_and_captured_ones_a_norm(tmp_path):
    model, data = mlp(), batches(7)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    copies, losses = [copy.deepcopy(model)], []
    with sl.GradientCapture(model, tmp_path / "run", every=3) as capture:
        capture.attach(optimizer)
        for batch in data:
            loss = mlp_loss(model, batch)
            loss.backward()
            losses.append(loss.item())
            capture.log(loss=loss, tokens=np.int64(48), seconds=0.25, note="a\nb", accumulation=None)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            copies.append(copy.deepcopy(model))
    run = sl.Run.open(tmp_path / "run")
    metrics = run.metrics
    assert metrics["step"].tolist() == list(range(7))
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-7)
    np.testing.assert_allclose(metrics["lr"], 0.1 * 0.5 ** np.arange(7))
    assert metrics["tokens"].tolist() == [48] * 7
    assert run.steps == [0, 3, 6]
    for step in range(7):
        gradients = mean_gradients(copies[step], mlp_loss, [data[step]]).values()  # biases belong to the norm
        norm = float(torch.stack([g.double().norm() for g in gradients]).norm())
        if step in run.steps:
            assert metrics["grad_norm"][step] == pytest.approx(norm, rel=1e-6)
            assert context(run, step) == {
                "step": step,
                "loss": losses[step],
                "lr": 0.1 * 0.5**step,
                "grad_norm": metrics["grad_norm"][step],
                "clipped": "unknown",
                "accumulation": None,
                "loss_scale": None,
                "dtype": "float32",
                "nonfinite": {},
                "missing": [],
            }
        else:
            assert np.isnan(metrics["grad_norm"][step])


def test_logged_values_go_before_those_found_out_and_belong_to_one_step(tmp_path):
    model, data = mlp(), batches(2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sl.GradientCapture(model, tmp_path / "run", every=1) as capture:
        capture.attach(optimizer)
        capture.log(lr=7, grad_norm=torch.tensor([3.0]), clipped="false", loss_scale=8.0)
        train(model, optimizer, data)
    run = sl.Run.open(tmp_path / "run")
    first, second = context(run, 0), context(run, 1)
    assert (first["lr"], first["grad_norm"], first["clipped"], first["loss_scale"]) == (7, 3.0, "false", 8.0)
    assert (second["lr"], second["clipped"], second["loss_scale"]) == (0.1, "unknown", None)


def test_identical_gradients_give_identical_files(tmp_path):
    for keep in ("full", "gram", "topk:2", "stats"):
        for name in ("a", "b"):
            model = mlp()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            with sl.GradientCapture(model, tmp_path / keep / name, every=2, keep=keep) as capture:
                capture.attach(optimizer)
                train(model, optimizer, batches(5), capture)
        a, b = files(tmp_path / keep / "a" / "snapshots"), files(tmp_path / keep / "b" / "snapshots")
        assert len(a) == 3
        assert a == b


def test_capture_changes_nothing_in_training(tmp_path):
    final = []
    for keep in (None, "full", "gram", "topk:2", "stats"):
        model = mlp()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        capture = keep and sl.GradientCapture(model, tmp_path / keep, every=1, keep=keep)
        if capture:
            capture.attach(optimizer)
        train(model, optimizer, batches(4))
        final.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert all(torch.equal(one, final[0]) for one in final[1:])


def test_steps_by_hand(tmp_path):
    model, data = mlp(), batches(5)
    expected = {}
    with sl.GradientCapture(model, tmp_path / "run", every=2, keep="full") as capture:
        for step, batch in enumerate(data):
            expected[step] = mean_gradients(model, mlp_loss, [batch])
            mlp_loss(model, batch).backward()
            capture.log(loss=float(step))
            capture.step(step)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.1 * parameter.grad
                    parameter.grad = None
    run = sl.Run.open(tmp_path / "run")
    assert run.steps == [0, 2, 4]
    assert run.metrics["loss"].tolist() == [0, 1, 2, 3, 4]
    for step in run.steps:
        assert relative_error(run.gradient(step, "down_proj.weight"), expected[step]["down_proj.weight"]) < 1e-6


def test_the_manifest_has_layers_settings_and_what_was_told(tmp_path):
    about = {"config": {"lr": 0.1}, "seeds": {"torch": 0}, "data_hash": "abc"}
    with sl.GradientCapture(mlp(), tmp_path / "run", every=4, keep="stats", layers="up_*", side="left", **about):
        pass
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["capture"] == {"every": 4, "keep": "stats", "layers": ["up_*"], "side": "left"}
    assert [layer["name"] for layer in manifest["layers"]] == ["up_proj.weight"]
    assert {name: manifest[name] for name in about} == about
    assert manifest["finished"]
