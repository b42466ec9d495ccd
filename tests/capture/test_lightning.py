"""Lightning: automatic and manual optimization, accumulation, clipping, mixed precision, refusal of `attach`."""

import copy
import functools
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import subspace_lab as sl
from tests.capture.helpers import batches, context, mean_gradients, mlp, mlp_loss, relative_error

LAYERS = ("net.up_proj.weight", "net.down_proj.weight")


@functools.cache
def modules():
    """Lightning's modules by name; importing it takes seconds, which is too long while tests are collected."""
    from lightning.pytorch import LightningModule

    class Automatic(LightningModule):
        """The MLP, trained by Lightning; copies itself before each batch."""

        def __init__(self, optimizer=torch.optim.AdamW, **options):
            super().__init__()
            self.net, self.make, self.options, self.copies = mlp(), optimizer, options, []

        def training_step(self, batch, index):
            self.copies.append(copy.deepcopy(self.net))
            return mlp_loss(self.net, batch)

        def configure_optimizers(self):
            return self.make(self.parameters(), lr=0.01, **self.options)

    class Manual(Automatic):
        """The same with an optimizer called by hand."""

        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, index):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, index))
            self.clip_gradients(optimizer, 0.01, "norm")
            optimizer.step()

    return {"automatic": Automatic, "manual": Manual}


def fit(module, data, callbacks=(), **options):
    from lightning.pytorch import Trainer

    settings = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "barebones": False,
    }
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(callbacks=list(callbacks), **settings | quiet | options)
    trainer.fit(module, DataLoader(data, batch_size=None, num_workers=0))
    return trainer


def named(gradients):
    return {f"net.{name}": gradient for name, gradient in gradients.items()}


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
def test_automatic_optimization_with_accumulation_and_clipping(tmp_path):
    module, data = modules()["automatic"](), batches(10)
    with sl.GradientCapture(module, tmp_path / "run", every=2, keep="full") as capture:
        fit(module, data, [capture.lightning_callback()], accumulate_grad_batches=2, gradient_clip_val=0.01)
    run = sl.Run.open(tmp_path / "run")
    assert run.manifest["finished"]
    assert run.steps == [0, 2, 4]
    losses = []
    for step in range(5):
        pair, before = data[2 * step : 2 * step + 2], module.copies[2 * step]
        losses.append(float(sum(mlp_loss(before, batch).detach() for batch in pair) / 2))
        if step in run.steps:
            expected = named(mean_gradients(before, mlp_loss, pair))
            norm = float(torch.stack([g.double().norm() for g in expected.values()]).norm())
            assert norm > 0.01  # so that clipping would have shown
            for layer in LAYERS:
                assert relative_error(run.gradient(step, layer), expected[layer]) < 1e-6
            assert context(run, step)["clipped"] == "false"
            assert context(run, step)["accumulation"] == 2
            assert context(run, step)["grad_norm"] == pytest.approx(norm, rel=1e-6)
    np.testing.assert_allclose(run.metrics["loss"], losses, rtol=1e-6)
    np.testing.assert_allclose(run.metrics["lr"], 0.01)


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
def test_manual_optimization(tmp_path):
    module, data = modules()["manual"](), batches(3)
    with sl.GradientCapture(module, tmp_path / "run", every=1, keep="full") as capture:
        fit(module, data, [capture.lightning_callback()])
    run = sl.Run.open(tmp_path / "run")
    assert run.steps == [0, 1, 2]
    for step in run.steps:
        expected = mean_gradients(module.copies[step], mlp_loss, [data[step]])
        norm = torch.stack([g.double().norm() for g in expected.values()]).norm()
        for layer in LAYERS:  # clipped by the user, which nothing tells
            assert relative_error(run.gradient(step, layer), named(expected)[layer] * 0.01 / (norm + 1e-6)) < 1e-6
        assert context(run, step)["clipped"] == "unknown"


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
@pytest.mark.parametrize("fused", [False, True])
def test_mixed_precision_is_captured_unscaled(fused, tmp_path):
    from lightning.pytorch.plugins.precision import MixedPrecision

    scaler = torch.amp.GradScaler("cpu", init_scale=4096.0)
    module, data = modules()["automatic"](fused=fused), batches(2)
    with sl.GradientCapture(module, tmp_path / "run", every=1, keep="full") as capture:
        plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
        fit(module, data, [capture.lightning_callback()], plugins=[plugin])
    run = sl.Run.open(tmp_path / "run")
    for step in (0, 1):
        expected = named(mean_gradients(module.copies[step], mlp_loss, [data[step]]))
        for layer in LAYERS:
            assert relative_error(run.gradient(step, layer), expected[layer]) < 5e-3  # the forward pass is float16
        assert context(run, step)["loss_scale"] == 4096.0
        assert context(run, step)["loss"] == pytest.approx(mlp_loss(module.copies[step], data[step]).item(), rel=5e-3)


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
def test_an_exception_in_training_leaves_the_run_unfinished(tmp_path):
    class Fails(modules()["automatic"]):
        def training_step(self, batch, index):
            if index == 2:
                raise RuntimeError("out of memory")
            return super().training_step(batch, index)

    module = Fails()
    capture = sl.GradientCapture(module, tmp_path / "run", every=1)
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(module, batches(4), [capture.lightning_callback()])
    run = sl.Run.open(tmp_path / "run")
    assert (run.steps, run.manifest["finished"]) == ([0, 1], False)


def test_attach_is_refused_for_a_module_that_lightning_optimizes(tmp_path):
    module = modules()["automatic"]()
    with sl.GradientCapture(module, tmp_path / "run") as capture:
        optimizer = module.configure_optimizers()
        with pytest.raises(
            ValueError, match=r"attach\(\) is refused: under Lightning .*capture.lightning_callback\(\)"
        ):
            capture.attach(optimizer)
        assert not optimizer._optimizer_step_pre_hooks


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
@pytest.mark.parametrize("optimization", ["automatic", "manual"])
def test_attach_is_refused_in_the_first_step_where_only_the_closure_tells(optimization, tmp_path):
    class Attaches(modules()[optimization]):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            capture.attach(optimizer)
            return optimizer

    module = Attaches()
    capture = sl.GradientCapture(module.net, tmp_path / "run")
    with capture, pytest.raises(ValueError, match=r"attach\(\) does not work here: .*capture.lightning_callback\(\)"):
        fit(module, batches(2))
    assert sl.Run.open(tmp_path / "run").steps == []


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
def test_attach_is_refused_for_lightnings_own_optimizer(tmp_path):
    class Attaches(modules()["manual"]):
        def training_step(self, batch, index):
            capture.attach(self.optimizers())

    module = Attaches()
    capture = sl.GradientCapture(module, tmp_path / "run")
    with capture, pytest.raises(ValueError, match=r"attach\(\) is refused: .*capture.lightning_callback\(\)"):
        fit(module, batches(1))


def test_fabric_takes_attach(tmp_path):
    from lightning.fabric import Fabric

    fabric, module, data = Fabric(accelerator="cpu", devices=1), modules()["automatic"](), batches(2)
    net, expected = module.net, {}
    model, optimizer = fabric.setup(_Forward(net), torch.optim.SGD(net.parameters(), lr=0.1))
    with sl.GradientCapture(net, tmp_path / "run", every=1, keep="full") as capture:
        capture.attach(optimizer)
        for step, batch in enumerate(data):
            expected[step] = mean_gradients(net, mlp_loss, [batch])
            fabric.backward(model(batch))
            optimizer.step()
            optimizer.zero_grad()
    run = sl.Run.open(tmp_path / "run")
    assert run.steps == [0, 1]
    for step in run.steps:
        assert relative_error(run.gradient(step, "up_proj.weight"), expected[step]["up_proj.weight"]) < 1e-6


class _Forward(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, batch):
        return mlp_loss(self.net, batch)


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
def test_optimizers_that_take_turns_are_all_captured(tmp_path):
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.automatic_optimization = False
            self.nets = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(3))
            self.taken = [[] for _ in self.nets]

        def training_step(self, batch, index):
            for net, optimizer, taken in zip(self.nets, self.optimizers(), self.taken, strict=True):
                self.toggle_optimizer(optimizer)  # freezes the others
                self.manual_backward(net(batch[0]).square().mean())
                taken.append(net.weight.grad.clone())
                optimizer.step()
                optimizer.zero_grad()
                self.untoggle_optimizer(optimizer)

        def configure_optimizers(self):
            return [torch.optim.SGD(net.parameters(), 0.01) for net in self.nets]

    module = Module()
    with sl.GradientCapture(module, tmp_path / "run", every=2, keep="full") as capture, warnings.catch_warnings():
        warnings.filterwarnings("error", message="step ")
        fit(module, batches(5), [capture.lightning_callback()])
    run = sl.Run.open(tmp_path / "run")
    assert (run.steps, run.metrics["step"].tolist()) == ([0, 2, 4], [0, 1, 2, 3, 4])
    for step in run.steps:
        for number, taken in enumerate(module.taken):
            assert torch.equal(run.gradient(step, f"nets.{number}.weight"), taken[step])


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
def test_a_fit_after_the_first_one_is_not_ended_and_lbfgs_is_captured_once_a_step(tmp_path):
    class Closure(modules()["automatic"]):
        def configure_optimizers(self):
            return torch.optim.LBFGS(self.net.parameters(), lr=0.1, max_iter=3)

    module = Closure()
    capture = sl.GradientCapture(module, tmp_path / "run", every=1)
    callback = capture.lightning_callback()
    fit(module, batches(3), [callback])
    with pytest.warns(UserWarning, match="is not captured: the capture into .* is closed"):
        trainer = fit(module, batches(2), [callback])
    assert trainer.global_step == 2
    run = sl.Run.open(tmp_path / "run")
    assert (run.steps, run.metrics["step"].tolist()) == ([0, 1, 2], [0, 1, 2])
