"""The Trainer of transformers: accumulation by tokens, clipping, its loss, resuming from its checkpoints."""

import copy

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import subspace_lab as sl
from tests.capture.helpers import mean_gradients, relative_error, tiny_llama

NUM_MICRO, BATCH, MAX_NORM = 2, 2, 0.3


def examples(count=24):
    """Token sequences of which different shares are left out of the loss, so that micro-batches weigh differently."""
    generator = torch.Generator().manual_seed(5)
    rows = []
    for number in range(count):
        tokens = torch.randint(29, (8,), generator=generator)
        labels = tokens.clone()
        labels[: 1 + number % 6] = -100
        rows.append({"input_ids": tokens, "labels": labels})
    return rows


def micro_batches(step):
    rows = examples()[step * NUM_MICRO * BATCH : (step + 1) * NUM_MICRO * BATCH]
    return [
        {key: torch.stack([row[key] for row in rows[i : i + BATCH]]) for key in rows[0]}
        for i in range(0, len(rows), BATCH)
    ]


def mean_over_tokens(model, batches):
    """Loss of an optimizer step: the mean over all predicted tokens of all micro-batches, not the mean of means."""
    logits = torch.cat([model(input_ids=batch["input_ids"]).logits[:, :-1] for batch in batches])
    labels = torch.cat([batch["labels"][:, 1:] for batch in batches])
    return cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)


def trainer(model, directory, callbacks, **options):
    from transformers import Trainer, TrainingArguments

    settings = {"max_grad_norm": MAX_NORM, "max_steps": 5, "save_strategy": "no", "logging_steps": 1}
    arguments = TrainingArguments(
        output_dir=str(directory),
        learning_rate=0.01,
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=NUM_MICRO,
        train_sampling_strategy="sequential",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **settings | options,
    )
    return Trainer(model, arguments, train_dataset=examples(), callbacks=callbacks)


def recorder():
    """A callback that copies the model before each step."""
    from transformers import TrainerCallback

    class Recorder(TrainerCallback):
        def __init__(self):
            self.models = {}

        def on_step_begin(self, args, state, control, model=None, **kwargs):
            self.models[state.global_step] = copy.deepcopy(model)

    return Recorder()


@pytest.mark.parametrize("max_norm", [MAX_NORM, 0.0])
def test_gradients_are_those_of_the_step_after_clipping(max_norm, tmp_path):
    model, copies = tiny_llama(), recorder()
    with sl.GradientCapture(model, tmp_path / "run", every=2, keep="full") as capture:
        trainer(model, tmp_path / "hf", [capture.hf_callback(), copies], max_grad_norm=max_norm).train()
    run = sl.Run.open(tmp_path / "run")
    assert run.manifest["finished"]
    assert run.steps == [0, 2, 4]
    assert run.metrics["step"].tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(run.metrics["lr"], [0.01, 0.008, 0.006, 0.004, 0.002])
    for step in range(5):
        loss = float(mean_over_tokens(copies.models[step], micro_batches(step)).detach())
        assert run.metrics["loss"][step] == pytest.approx(loss, abs=1e-4)  # the Trainer rounds what it logs
    for step in run.steps:
        gradients = mean_gradients(copies.models[step], mean_over_tokens, [micro_batches(step)])
        norm = torch.stack([g.double().norm() for g in gradients.values()]).norm()
        factor = float(max_norm / (norm + 1e-6)) if max_norm else 1.0
        assert factor < 1 or not max_norm
        for layer in run.layers["name"]:
            assert relative_error(run.gradient(step, layer), factor * gradients[layer]) < 1e-5, layer
        with run.snapshot(step) as snapshot:
            assert snapshot.context["clipped"] == ("true" if max_norm else "false")
            assert snapshot.context["accumulation"] == NUM_MICRO
            assert snapshot.context["grad_norm"] == pytest.approx(factor * float(norm), rel=1e-5)


def test_the_loss_is_where_the_trainer_logs_it(tmp_path):
    model = tiny_llama()
    with sl.GradientCapture(model, tmp_path / "run", every=100) as capture:
        loop = trainer(model, tmp_path / "hf", [capture.hf_callback()], logging_steps=2)
        loop.train()
    metrics = sl.Run.open(tmp_path / "run").metrics
    logged = {entry["step"] - 1: entry["loss"] for entry in loop.state.log_history if "loss" in entry}
    assert metrics["loss"].dropna().to_dict() == logged
    assert set(logged) == {1, 3}


def test_resuming_from_a_checkpoint_of_the_trainer_repeats_the_run(tmp_path):
    whole, model = tmp_path / "whole", tiny_llama()
    with sl.GradientCapture(model, whole, every=1) as capture:
        saving = trainer(model, tmp_path / "hf", [capture.hf_callback()], save_strategy="steps", save_steps=2)
        saving.train()
    before = {path.name: path.read_bytes() for path in (whole / "snapshots").iterdir()}
    lines = (whole / "metrics.jsonl").read_text()
    for name in ("step_00000003.safetensors", "step_00000004.safetensors"):  # as if killed in step 3
        (whole / "snapshots" / name).unlink()
    model = tiny_llama()
    with sl.GradientCapture(model, whole, every=1, resume=True) as capture:
        again = trainer(model, tmp_path / "hf", [capture.hf_callback()], save_strategy="no")
        again.train(resume_from_checkpoint=str(tmp_path / "hf" / "checkpoint-2"))
    assert {path.name: path.read_bytes() for path in (whole / "snapshots").iterdir()} == before
    assert (whole / "metrics.jsonl").read_text() == lines


def test_an_interrupted_training_is_not_finished(tmp_path):
    from transformers import TrainerCallback

    class Interrupt(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 2:
                raise KeyboardInterrupt

    model = tiny_llama()
    capture = sl.GradientCapture(model, tmp_path / "run", every=1)
    with pytest.raises(KeyboardInterrupt), capture:
        trainer(model, tmp_path / "hf", [capture.hf_callback(), Interrupt()]).train()
    run = sl.Run.open(tmp_path / "run")
    assert not run.manifest["finished"]
    assert (run.steps, run.metrics["step"].tolist()) == ([0, 1], [0, 1])


def test_a_second_training_needs_another_capture(tmp_path):
    model = tiny_llama()
    capture = sl.GradientCapture(model, tmp_path / "run")
    loop = trainer(model, tmp_path / "hf", [capture.hf_callback()], max_steps=1)
    loop.train()
    with pytest.warns(UserWarning, match=r"is closed; to go on, make a new one with resume=True") as said:
        assert loop.train().global_step == 1  # not ended by the capture
    assert sum("is closed" in str(one.message) for one in said) == 1
    assert sl.Run.open(tmp_path / "run").metrics["step"].tolist() == [0]


def test_a_training_that_begins_again_replaces_what_was_given_up(tmp_path):
    """As the search for a batch size does when it meets the end of the memory."""
    from transformers import TrainerCallback

    class Once(TrainerCallback):
        failed = False

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3 and not self.failed:
                self.failed = True
                raise RuntimeError("CUDA out of memory. Tried to allocate")

    model = tiny_llama()
    capture = sl.GradientCapture(model, tmp_path / "run", every=2)
    options = {"max_steps": 5, "auto_find_batch_size": True, "save_strategy": "no"}
    loop = trainer(model, tmp_path / "hf", [capture.hf_callback(), Once()], **options)
    with pytest.warns(UserWarning, match="the training began again at step 0 after step 2"):
        assert loop.train().global_step == 5
    run = sl.Run.open(tmp_path / "run")
    assert (run.steps, run.metrics["step"].tolist(), run.manifest["finished"]) == ([0, 2, 4], [0, 1, 2, 3, 4], True)
    assert run.verify() == 3
