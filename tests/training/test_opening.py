"""Trainings over tasks, models and hooks of one's own, and a learning rate of what has no rank."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from subspace_lab.runs import Run, RunError
from subspace_lab.training import TrainConfig, train
from subspace_lab.training.checkpoint import checkpoint_path, checkpoint_steps, model_tensors
from subspace_lab.training.hooks import StepHooks
from subspace_lab.training.models import build_model
from subspace_lab.training.optimizers import build_optimizer, settle_optimizer
from subspace_lab.training.schedule import Cosine
from subspace_lab.training.tasks.base import Metric
from tests.training.tiny import tiny_config

STEPS = 6


class Regression:
    """Rows of a linear map: y = x W, the loss and two metrics of it."""

    identity = "rows of a linear map"
    metrics = (Metric("eval_share", "higher", ""), Metric("eval_loss"))
    tokens_per_row = 3

    def __init__(self):
        self._truth = torch.arange(12.0).reshape(4, 3) / 12

    def _rows(self, seed, first, count):
        x = torch.stack([torch.randn(4, generator=torch.Generator().manual_seed(seed * 10_000 + first + k))
                         for k in range(count)])  # fmt: skip
        return {"x": x, "y": x @ self._truth}

    def batch(self, first, count, *, seed):
        return self._rows(seed + 1, first, count)

    def loss(self, model, batch):
        return (model(batch["x"]) - batch["y"]).square().mean()

    def evaluate(self, model):
        batch = self.probe(8)
        off = (model(batch["x"]) - batch["y"]).abs()
        return {"eval_share": (off < 0.5).float().mean().item(), "eval_loss": off.square().mean().item()}

    def probe(self, count):
        return self._rows(0, 0, count)

    def facts(self):
        return {"rows": 8}


def own_model():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def settings(**changes):
    given = {"steps": STEPS, "batch_size": 4, "accumulation": 2, "sequence_length": 8, "lr": 0.05, "warmup": 0,
             "every": 2, "keep": "full", "eval_every": 3, "checkpoint_every": 2, "precision": "float32"}  # fmt: skip
    return TrainConfig(**{**given, **changes})


def test_a_task_and_a_model_of_ones_own_are_a_plain_loop(tmp_path):
    model, twin, task = own_model(), own_model(), Regression()
    run = Run.open(train(tmp_path / "run", settings(), feed=task, model=model))
    config = settings().resolved()
    optimizer = torch.optim.AdamW(twin.parameters(), lr=0.05, weight_decay=0.0)
    losses, shares = [], []
    for step in range(STEPS):
        with torch.no_grad():
            shares.append(task.evaluate(twin)["eval_share"])
        parts = [task.loss(twin, task.batch((2 * step + k) * 4, 4, seed=0)) for k in range(2)]
        (sum(parts) / 2).backward()
        losses.append(sum(part.item() for part in parts) / 2)
        nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = Cosine.of(config).at(step)
        optimizer.step()
        optimizer.zero_grad()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert run.metrics["loss"].tolist() == pytest.approx(losses)
    evaluated = run.metrics.dropna(subset=["eval_share"])
    assert evaluated["step"].tolist() == [0, 3, 5]
    assert evaluated["eval_share"].tolist() == [shares[0], shares[3], shares[5]]
    assert run.metrics["tokens"].tolist() == [2 * 4 * 3] * STEPS
    assert (run.manifest["data_hash"], run.manifest["evaluation"]) == (task.identity, {"rows": 8})


class Counted:
    """Hooks that halve gradients, count what they saw and keep a running sum."""

    def __init__(self, stop_at=None):
        self.seen, self.sum, self.stop_at = 0, torch.zeros(2), stop_at

    def before(self, step, model):
        if step == self.stop_at:
            raise RuntimeError("stopped here")
        for p in model.parameters():
            p.grad.mul_(0.5)
        self.sum += torch.tensor([1.0, step])

    def after(self, step, model):
        assert all(p.grad is not None for p in model.parameters())
        self.seen += 1

    def state_dict(self):
        return {"seen": self.seen, "sum": self.sum}

    def load_state_dict(self, state):
        self.seen, self.sum = state["seen"], state["sum"]

    @property
    def hooks(self):
        return StepHooks(self.before, self.after, self)


def test_hooks_change_the_gradient_that_is_captured_and_resume_with_their_state(tmp_path):
    whole, half = Counted(), Counted(stop_at=5)
    plain = Run.open(train(tmp_path / "plain", settings(), feed=Regression(), model=own_model()))
    through = own_model()
    run = Run.open(train(tmp_path / "whole", settings(), feed=Regression(), model=through, hooks=whole.hooks))
    torch.testing.assert_close(run.gradient(0, "0.weight"), plain.gradient(0, "0.weight") * 0.5)
    assert run.metrics["grad_norm"][0] == pytest.approx(plain.metrics["grad_norm"][0] / 2)
    with pytest.raises(RuntimeError, match="stopped here"):
        train(tmp_path / "cut", settings(), feed=Regression(), model=own_model(), hooks=half.hooks)
    again, resumed = Counted(), own_model()
    train(tmp_path / "cut", settings(), feed=Regression(), model=resumed, hooks=again.hooks, resume=True)
    assert all(map(torch.equal, resumed.parameters(), through.parameters()))
    assert (again.seen, again.sum.tolist()) == (whole.seen, whole.sum.tolist()) == (STEPS, [6.0, 15.0])


def test_a_hook_that_replaces_the_backward_pass_decides_the_gradient_and_what_is_left_alone(tmp_path):
    """Half of the gradient of the first matrix, and none of the rest, which momentum would move if it were zero."""
    losses = []

    def backward(step, model, plain):
        loss = plain()
        losses.append(loss)
        for name, p in model.named_parameters():
            p.grad = p.grad * 0.5 if name == "0.weight" else p.grad if step == 0 else None
        return loss

    model = own_model()
    hooks = StepHooks(backward=backward)
    run = Run.open(train(tmp_path / "own", settings(), feed=Regression(), model=model, hooks=hooks))
    plain = Run.open(train(tmp_path / "plain", settings(), feed=Regression(), model=own_model()))
    torch.testing.assert_close(run.gradient(0, "0.weight"), plain.gradient(0, "0.weight") * 0.5)
    assert [*run.metrics["loss"]] == losses
    after = {}
    for steps in (1, STEPS):
        after[steps] = own_model()
        train(tmp_path / f"{steps}", settings(steps=steps, warmup=0, min_lr_ratio=1.0), feed=Regression(),
              model=after[steps], hooks=hooks)  # fmt: skip
    one, all_of = (dict(after[steps].named_parameters()) for steps in (1, STEPS))
    assert {name for name in one if torch.equal(one[name], all_of[name])} == {*one} - {"0.weight"}


def test_a_resume_without_the_hooks_is_refused(tmp_path):
    with pytest.raises(RuntimeError, match="stopped here"):
        train(tmp_path / "run", settings(), feed=Regression(), model=own_model(), hooks=Counted(stop_at=5).hooks)
    with pytest.raises(RunError, match=r"resume with the same hooks"):
        train(tmp_path / "run", settings(), feed=Regression(), model=own_model(), resume=True)


def test_a_resume_with_other_rows_is_refused(tmp_path):
    with pytest.raises(RuntimeError, match="stopped here"):
        train(tmp_path / "run", settings(), feed=Regression(), model=own_model(), hooks=Counted(stop_at=5).hooks)
    other = Regression()
    other.identity = "other rows"
    with pytest.raises(RunError, match="began with other data"):
        train(tmp_path / "run", settings(), feed=other, model=own_model(), hooks=Counted().hooks, resume=True)


@pytest.mark.parametrize("optimizer", ["adamw", "grasswalk", "badam"])
def test_the_rest_has_a_rate_of_its_own(text, optimizer):
    """With the rate of the matrices at next to nothing only the rest moves, and the other way round."""
    moved = {}
    for lr, lr_rest in ((1e-12, 0.1), (0.1, 1e-12)):
        further = {"grasswalk": {"rank": 2}, "badam": {"update_interval": 2}}  # every block has its turn
        options = {"optimizer": optimizer, **further.get(optimizer, {})}
        config = settle_optimizer(tiny_config(text, lr=lr, lr_rest=lr_rest, **options).resolved())
        model = build_model(config)
        built = build_optimizer(model, config)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        for _ in range(12):
            for p in model.parameters():
                p.grad = torch.ones_like(p) + 0.1 * torch.randn_like(p)
            built.step()
        moved[lr] = {name for name, p in model.named_parameters() if (p - before[name]).abs().max() > 1e-3}
    matrices = {name for name in before if "proj" in name}
    assert moved == {1e-12: set(before) - matrices, 0.1: matrices}


def test_the_rest_follows_the_same_schedule_from_its_own_peak(tmp_path, text):
    config = tiny_config(text, optimizer="adamw", lr=1e-3, lr_rest=2e-2, weight_decay=0.0, warmup=2)
    run_dir = train(tmp_path / "run", config)
    again = train(tmp_path / "again", tiny_config(text, optimizer="adamw", lr=1e-3, lr_rest=1e-3, warmup=2))
    same = train(tmp_path / "same", tiny_config(text, optimizer="adamw", lr=1e-3, warmup=2))
    last = checkpoint_steps(same)[-1]
    assert checkpoint_path(again, last).read_bytes() == checkpoint_path(same, last).read_bytes()
    assert checkpoint_path(run_dir, last).read_bytes() != checkpoint_path(same, last).read_bytes()
    schedules = [Cosine.of(config.resolved(), peak=peak) for peak in (1e-3, 2e-2)]
    for step in range(config.steps):
        assert schedules[1].at(step) == pytest.approx(20 * schedules[0].at(step))


@pytest.mark.parametrize("optimizer", ["adamw", "grasswalk"])
def test_a_first_step_has_the_size_of_each_rate(tmp_path, text, optimizer):
    """Adam's first step is the learning rate in every entry, of full-rank parameters at least."""
    config = tiny_config(text, optimizer=optimizer, steps=2, warmup=1, lr=1e-3, lr_rest=2e-2, checkpoint_every=1)
    run_dir = train(tmp_path / "run", config)
    before = dict(build_model(config.resolved()).named_parameters())
    after = model_tensors(run_dir, checkpoint_steps(run_dir)[0])
    moved = {name: (after[name] - before[name]).abs().max().item() for name in after}
    assert moved["lm_head.weight"] == pytest.approx(1e-2, rel=1e-2)  # half of the peak, in warm-up
    assert moved["model.norm.weight"] == pytest.approx(1e-2, rel=1e-2)
    if optimizer == "adamw":
        assert moved["model.layers.0.self_attn.q_proj.weight"] == pytest.approx(5e-4, rel=1e-2)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), True, "fast"])
def test_a_rate_of_the_rest_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match="lr_rest must be a positive number"):
        TrainConfig(lr_rest=rate)
