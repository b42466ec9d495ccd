"""`attach`: closures, Accelerate, gradient scalers, and what is refused."""

import copy

import pytest
import torch
from torch import nn

import subspace_lab as sl
from tests.capture.helpers import batches, context, mean_gradients, mlp, mlp_loss, relative_error, train

LAYERS = ("up_proj.weight", "down_proj.weight")


def assert_captured(run, expected, tolerance=1e-6):
    assert run.steps == sorted(expected)
    for step, gradients in expected.items():
        for layer in LAYERS:
            assert relative_error(run.gradient(step, layer), gradients[layer]) < tolerance


@pytest.mark.parametrize("by_name", [False, True])
def test_a_closure_is_captured_after_its_first_evaluation(by_name, tmp_path):
    model, data, expected = mlp(), batches(3), {}
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4)
    evaluations = []
    with sl.GradientCapture(model, tmp_path / "run", every=1, keep="full") as capture:
        capture.attach(optimizer)
        for step, batch in enumerate(data):
            before = copy.deepcopy(model)
            expected[step] = mean_gradients(before, mlp_loss, [batch])

            def closure(batch=batch):
                optimizer.zero_grad()
                loss = mlp_loss(model, batch)
                loss.backward()
                evaluations.append(capture.log(loss=loss))
                return loss

            returned = optimizer.step(closure=closure) if by_name else optimizer.step(closure)
            assert returned.item() == pytest.approx(mlp_loss(before, batch).item())
    assert len(evaluations) > 3
    run = sl.Run.open(tmp_path / "run")
    assert_captured(run, expected)
    assert len(run.metrics) == 3


def test_start_step_counts_on(tmp_path):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sl.GradientCapture(model, tmp_path / "run", every=5) as capture:
        capture.attach(optimizer, start_step=8)
        train(model, optimizer, batches(4))
    run = sl.Run.open(tmp_path / "run")
    assert run.steps == [10]
    assert run.metrics["step"].tolist() == [8, 9, 10, 11]


def test_accelerate_with_accumulation(tmp_path):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, data, expected = mlp(), batches(8), {}
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=0.01))
    with sl.GradientCapture(model, tmp_path / "run", every=2, keep="full") as capture:
        capture.attach(optimizer)
        for number, batch in enumerate(data):
            if number % 4 == 0:
                expected[number // 2] = mean_gradients(
                    accelerator.unwrap_model(model), mlp_loss, data[number : number + 2]
                )
            with accelerator.accumulate(model):
                accelerator.backward(mlp_loss(model, batch))
                optimizer.step()
                optimizer.zero_grad()
    run = sl.Run.open(tmp_path / "run")
    assert_captured(run, expected)
    assert len(run.metrics) == 4
    assert context(run, 2)["accumulation"] == 2
    assert context(run, 2)["lr"] == 0.01


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("unscale_first", [False, True])
def test_gradients_are_captured_unscaled_and_skipped_steps_do_not_count(fused, unscale_first, tmp_path):
    model, data, expected = mlp(), batches(4), {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with sl.GradientCapture(model, tmp_path / "run", every=1, keep="full") as capture:
        capture.attach(optimizer)
        for number, batch in enumerate(data):
            overflows = number == 1
            if not overflows:
                expected[len(expected)] = mean_gradients(model, mlp_loss, [batch])
            loss = mlp_loss(model, batch) * (float("inf") if overflows else 1)
            scaler.scale(loss).backward()
            if unscale_first:
                scaler.unscale_(optimizer)
            capture.log(tokens=number)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    assert scaler.get_scale() == 512.0
    run = sl.Run.open(tmp_path / "run")
    assert_captured(run, expected)
    assert run.metrics["tokens"].tolist() == [0, 2, 3]
    norm = float(torch.stack([g.double().norm() for g in expected[1].values()]).norm())
    assert context(run, 1)["grad_norm"] == pytest.approx(norm, rel=1e-6)
    known = fused and not unscale_first  # otherwise nothing tells the hook
    assert context(run, 1)["loss_scale"] == (512.0 if known else None)


@pytest.mark.parametrize("fused", [False, True])
def test_accelerate_tells_the_loss_scale(fused, tmp_path):
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer

    Accelerator(cpu=True)
    model, data = mlp(), batches(2)
    expected = {0: mean_gradients(model, mlp_loss, data[:1])}
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    optimizer = AcceleratedOptimizer(torch.optim.AdamW(model.parameters(), lr=0.0, fused=fused), scaler=scaler)
    with sl.GradientCapture(model, tmp_path / "run", every=2, keep="full") as capture:
        capture.attach(optimizer)
        for batch in data:
            scaler.scale(mlp_loss(model, batch)).backward()
            optimizer.step()
            optimizer.zero_grad()
    run = sl.Run.open(tmp_path / "run")
    assert_captured(run, expected)
    assert context(run, 0)["loss_scale"] == 256.0
    assert len(run.metrics) == 2


def test_a_compiled_and_wrapped_model_in_a_plain_loop(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = mlp()

        def forward(self, inputs, targets):
            return mlp_loss(self.parts, (inputs, targets))

    bare = Net()
    model = nn.DataParallel(torch.compile(bare, backend="eager"))
    optimizer, data = torch.optim.SGD(model.parameters(), lr=0.1), batches(2)
    expected = {}
    with sl.GradientCapture(model, tmp_path / "run", every=1, keep="full") as capture:
        capture.attach(optimizer)
        for step, batch in enumerate(data):
            expected[step] = mean_gradients(copy.deepcopy(bare), lambda m, b: m(*b), [batch])
            model(*batch).backward()
            optimizer.step()
            optimizer.zero_grad()
    run = sl.Run.open(tmp_path / "run")
    for step in run.steps:
        for layer in LAYERS:
            assert relative_error(run.gradient(step, f"parts.{layer}"), expected[step][f"parts.{layer}"]) < 1e-6


class Engine(torch.optim.Optimizer):
    """A wrapper around something that steps elsewhere, as Accelerate makes for DeepSpeed."""

    def __init__(self):
        self.optimizer = object()


@pytest.mark.parametrize("optimizer", [None, "adam", object(), Engine()])
def test_what_is_no_optimizer_is_refused_and_the_capture_stays_usable(optimizer, tmp_path):
    model = mlp()
    with sl.GradientCapture(model, tmp_path / "run", every=1) as capture:
        with pytest.raises(ValueError, match=r"attach\(\) takes a torch.optim.Optimizer that steps by itself, got "):
            capture.attach(optimizer)
        good = torch.optim.SGD(model.parameters(), lr=0.1)
        with pytest.raises(ValueError, match="a step must be a whole number"):
            capture.attach(good, start_step=-2)
        capture.attach(good)
        train(model, good, batches(1))
    assert sl.Run.open(tmp_path / "run").steps == [0]
