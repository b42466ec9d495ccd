"""Under other people's training loops: what they make of it must be plain steps on the gradients that they computed."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from subspace_lab import optim

NAMES = ["GrassWalk", "LDAdam", "APOLLO", "FRUGAL", "BAdam"]
every_method = pytest.mark.parametrize("name", NAMES)


class Recorder:
    """Remembers gradients and learning rates of every step, to take the same steps again by hand."""

    def __init__(self) -> None:
        self.steps: list[tuple[list[torch.Tensor | None], list[float]]] = []

    def attach(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        optimizer.register_step_post_hook(self._remember)
        return optimizer

    def _remember(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        groups = optimizer.param_groups
        grads = [None if p.grad is None else p.grad.clone() for group in groups for p in group["params"]]
        self.steps.append((grads, [group["lr"] for group in groups]))

    def replay(self, model: nn.Module, build: Callable[[nn.Module], torch.optim.Optimizer]) -> None:
        optimizer = build(model)
        for grads, lrs in self.steps:
            for p, grad in zip((p for g in optimizer.param_groups for p in g["params"]), grads, strict=True):
                p.grad = grad
            for group, lr in zip(optimizer.param_groups, lrs, strict=True):
                group["lr"] = lr
            optimizer.step()


def check_same(model: nn.Module, again: nn.Module) -> None:
    for (name, p), other in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(p, other), name


def check_moved(model: nn.Module, start: nn.Module) -> None:
    moved = [not torch.equal(p, q) for p, q in zip(model.parameters(), start.parameters(), strict=True)]
    assert all(moved)


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 12), nn.GELU(), nn.Linear(12, 3))


def build(name: str) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: getattr(optim, name)(optim.param_groups(model, rank=2), lr=0.02, update_interval=3)


def batches(number: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(8, 6, generator=generator), torch.randint(3, (8,), generator=generator)) for _ in range(number)
    ]


# --- Accelerate ------------------------------------------------------------------------------------------------------


@every_method
def test_accelerate_with_accumulation_clipping_and_a_schedule(name):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    start, recorder = mlp(), Recorder()
    inner = recorder.attach(build(name)(own := copy.deepcopy(start)))
    schedule = torch.optim.lr_scheduler.StepLR(inner, 4, gamma=0.5)
    model, optimizer, schedule = accelerator.prepare(own, inner, schedule)
    for x, y in batches(30):
        with accelerator.accumulate(model):
            accelerator.backward(cross_entropy(model(x), y))
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    assert len(recorder.steps) == 15
    assert recorder.steps[0][1][0] > recorder.steps[-1][1][0]
    recorder.replay(again := copy.deepcopy(start), build(name))
    check_same(own, again)
    check_moved(own, start)


# --- Hugging Face ----------------------------------------------------------------------------------------------------


def llama() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, vocab_size=40
        )
    )


def hugging_face(model: nn.Module, path, steps: int, choice: tuple, *, resume: bool = False, recorder=None):
    """Train by the Trainer, given an optimizer class (or factory) and its arguments."""
    transformers = pytest.importorskip("transformers")
    generator = torch.Generator().manual_seed(0)
    data = [{"input_ids": ids, "labels": ids} for ids in torch.randint(40, (64, 10), generator=generator)]
    arguments = transformers.TrainingArguments(
        output_dir=path, max_steps=steps, per_device_train_batch_size=4, gradient_accumulation_steps=2, use_cpu=True,
        max_grad_norm=0.5, lr_scheduler_type="constant", save_steps=5, save_strategy="steps", report_to=[],
        logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = transformers.Trainer(model, arguments, train_dataset=data, optimizer_cls_and_kwargs=choice)
    optimizer = trainer.create_optimizer()
    if recorder is not None:
        recorder.attach(optimizer)
    trainer.train(resume_from_checkpoint=resume)
    return optimizer


@every_method
def test_hugging_face_by_class_and_arguments(name, tmp_path):
    start, recorder = llama(), Recorder()
    model = copy.deepcopy(start)
    options = {"params": optim.param_groups(model, rank=2), "lr": 0.01, "update_interval": 3}
    optimizer = hugging_face(model, tmp_path, 8, (getattr(optim, name), options), recorder=recorder)
    assert type(optimizer) is getattr(optim, name)
    assert len(recorder.steps) == 8
    recorder.replay(
        again := copy.deepcopy(start),
        lambda model: getattr(optim, name)(optim.param_groups(model, rank=2), lr=0.01, update_interval=3),
    )
    check_same(model, again)


def test_hugging_face_by_a_factory_that_receives_the_model(tmp_path):
    class Factory:
        """As the Trainer wants it: made without arguments, then called with the model."""

        def __call__(self, model: nn.Module, rank: int, **options) -> torch.optim.Optimizer:
            return optim.GrassJump(optim.param_groups(model, rank=rank), **options)

    model = llama()
    optimizer = hugging_face(model, tmp_path, 3, (Factory, {"rank": 2, "lr": 0.01}))
    assert type(optimizer) is optim.GrassJump
    assert optimizer.param_groups[0]["rank"] == 2
    assert optimizer.state[model.model.layers[0].mlp.up_proj.weight]["step"] == 3


@every_method
def test_hugging_face_resumes_bit_for_bit(name, tmp_path):
    finals = []
    for stops in ((10,), (5, 10)):
        path = tmp_path / str(len(stops))
        for stop in stops:
            model = llama()
            options = {"params": optim.param_groups(model, rank=2), "lr": 0.01, "update_interval": 4}
            hugging_face(model, path, stop, (getattr(optim, name), options), resume=stop != stops[0])
        finals.append(model)
    check_same(*finals)


# --- Lightning -------------------------------------------------------------------------------------------------------


@every_method
def test_lightning_with_accumulation_clipping_and_a_schedule(name, tmp_path):
    lightning = pytest.importorskip("lightning")
    start, recorder = mlp(), Recorder()

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = copy.deepcopy(start)

        def training_step(self, batch, index):
            x, y = batch
            return cross_entropy(self.net(x), y)

        def configure_optimizers(self):
            optimizer = recorder.attach(build(name)(self.net))
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)]

    module = Module()
    x, y = (torch.cat(parts) for parts in zip(*batches(20), strict=True))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8)
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", devices=1, accumulate_grad_batches=2, gradient_clip_val=0.5, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, loader)
    assert len(recorder.steps) == 20
    recorder.replay(again := copy.deepcopy(start), build(name))
    check_same(module.net, again)
    check_moved(module.net, start)


@every_method
@pytest.mark.parametrize("named", [True, False])
def test_lightning_adds_the_backbone_later(name, named, tmp_path):
    """As a group without names and without a rank: it is trained, by AdamW, beside the groups that there were."""
    lightning = pytest.importorskip("lightning")
    from lightning.pytorch.callbacks import BackboneFinetuning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.backbone, self.top = nn.Sequential(nn.Linear(6, 8), nn.GELU()), nn.Linear(8, 3)

        def training_step(self, batch, index):
            x, y = batch
            return cross_entropy(self.top(self.backbone(x)), y)

        def configure_optimizers(self):
            trained = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
            params = trained if named else [p for _, p in trained]
            return getattr(optim, name)([{"params": params, "rank": None}], lr=0.02, update_interval=1)

    module = Module()
    start = copy.deepcopy(module)
    x, y = (torch.cat(parts) for parts in zip(*batches(4), strict=True))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8)
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        callbacks=[BackboneFinetuning(unfreeze_backbone_at_epoch=1, verbose=False)],
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, loader)
    assert len(trainer.optimizers[0].param_groups) == 2
    check_moved(module, start)
