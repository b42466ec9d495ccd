"""Runs of labelled tasks: metrics, exact resume, the Hessian and the noise of the task's own loss."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import subspace_lab as sl
from subspace_lab.training import RestoredCheckpoints, TrainConfig, TrainingInterrupted
from subspace_lab.training.checkpoint import model_tensors
from subspace_lab.training.hooks import StepHooks
from subspace_lab.training.tasks.answers import NOT_COUNTED
from tests.training.tasks.small_models import write_rows

RUN = {
    "task": "file", "steps": 8, "batch_size": 2, "accumulation": 2, "lr": 3e-3, "precision": "float32", "threads": 1,
    "every": 2, "checkpoint_every": 3, "keep_checkpoints": 3, "eval_every": 4, "eval_batches": 2,
}  # fmt: skip


def settings(rows: Path, **changes) -> TrainConfig:
    return TrainConfig(**{**RUN, "data": str(rows), **changes})


@pytest.fixture(scope="module", params=["preset", "pretrained", "encoder"])
def how(request: pytest.FixtureRequest, plain: Path, encoder: Path, rows: Path, tmp_path_factory) -> TrainConfig:
    """A preset with a BPE of its own, a causal model and an encoder."""
    if request.param == "preset":
        return settings(rows, preset="tiny", optimizer="grasswalk", rank=4, update_interval=3)
    if request.param == "pretrained":
        return settings(rows, model=str(plain))
    prompts = [json.loads(line)["prompt"] for line in rows.read_text().splitlines()]
    labelled = [{"text": prompt, "label": number % 2} for number, prompt in enumerate(prompts)]
    data = write_rows(tmp_path_factory.mktemp("labelled") / "rows.jsonl", labelled)
    return settings(data, task="classification", model=str(encoder), sequence_length=64)


@pytest.fixture
def trained(how: TrainConfig, tmp_path: Path) -> Path:
    return sl.train(tmp_path / "run", how)


class StopsAt:
    """Ends a training as Ctrl-C does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, step: int, model: torch.nn.Module) -> None:
        if step == self.step:
            raise KeyboardInterrupt


def test_metrics_by_name(trained: Path) -> None:
    run = sl.Run.open(trained)
    named = [metric["name"] for metric in run.manifest["evaluation"]["metrics"]]
    found = run.metrics[["step", *named]].dropna()
    assert found["step"].tolist() == [0, 4, 7]
    assert named[0] == "eval_loss"
    if run.manifest["config"]["task"] == "file":
        assert named == ["eval_loss", "eval_exact", "eval_f1"]
    assert run.metrics["loss"].iloc[-1] < run.metrics["loss"].iloc[0] + 1


def test_a_run_that_was_cut_has_the_bits_of_one_that_was_not(how: TrainConfig, trained: Path, tmp_path: Path) -> None:
    with pytest.raises((KeyboardInterrupt, TrainingInterrupted)):
        sl.train(tmp_path / "cut", how, hooks=StepHooks(before=StopsAt(5)))
    sl.train(tmp_path / "cut", resume=True)
    for step in (6, 8):
        one, two = (model_tensors(path, step) for path in (trained, tmp_path / "cut"))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)
    names = sorted(path.name for path in (trained / "snapshots").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "cut" / "snapshots").iterdir())
    for name in names:
        assert (trained / "snapshots" / name).read_bytes() == (tmp_path / "cut" / "snapshots" / name).read_bytes()
    evaluated = [c for c in sl.Run.open(trained).metrics if c.startswith("eval_")]
    first, second = (sl.Run.open(path).metrics[["loss", *evaluated]] for path in (trained, tmp_path / "cut"))
    assert first.equals(second)


def test_the_loss_at_checkpoints_is_the_tasks_own(trained: Path) -> None:
    run = sl.Run.open(trained, write=True)
    checkpoints = RestoredCheckpoints.of(run)
    assert run.manifest["evaluation"] == checkpoints.task.facts()
    step, model = next(checkpoints.models())
    device = torch.device("cpu")
    batch = checkpoints.probe(100, device)
    whole = checkpoints.loss(model, batch)
    plain = {name: rows for name, rows in batch.items() if name != "share"}
    assert whole.item() == pytest.approx(checkpoints.task.loss(model, plain).item(), rel=1e-5)
    count = len(batch["labels"])
    parts = [
        checkpoints.loss(model, {name: rows[k : k + 1] for name, rows in batch.items()}).item() for k in range(count)
    ]
    assert np.mean(parts) == pytest.approx(whole.item(), rel=1e-5), "a mean over rows, so that noise may be measured"
    if "share" in batch:
        counted = (batch["labels"][:, 1:] != NOT_COUNTED).sum(1).double()
        torch.testing.assert_close(batch["share"].double(), counted / counted.mean(), rtol=1e-6, atol=0)
    noise = sl.analysis.noise_of_run(run, checkpoints, layers=run.layers["name"].tolist()[:1])["noise"]
    at = noise[(noise["step"] == step) & (noise["layer"] == "model") & (noise["part"] == "all")].iloc[0]
    assert at["loss"] == pytest.approx(whole.item(), rel=1e-4)
    hessian = sl.analysis.hessian_of_run(run, checkpoints, k=1, layers=run.layers["name"].tolist()[:1])["hessian"]
    assert set(hessian["step"]) == {3, 6, 8}


def test_a_moved_file_of_rows_is_found_by_its_content(rows: Path, plain: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    data = shutil.copy(rows, tmp_path / "a" / "rows.jsonl")
    run_dir = sl.train(tmp_path / "a" / "run", settings(Path(data), model=str(plain), steps=2))
    (tmp_path / "a").rename(tmp_path / "b")
    run = sl.Run.open(tmp_path / "b" / run_dir.name)
    assert RestoredCheckpoints.of(run).config.data == str(tmp_path / "b" / "rows.jsonl")
    with (tmp_path / "b" / "rows.jsonl").open("a") as file:
        file.write('{"prompt": "one more", "response": "row"}\n')
    with pytest.raises(sl.RunError, match="was trained on other data"):
        RestoredCheckpoints.of(run)


def test_only_what_decides_the_rows_is_in_the_identity(rows: Path, plain: Path, chatty: Path, tmp_path: Path) -> None:
    def identity(**changes) -> str:
        return sl.Run.open(
            sl.train(
                tmp_path / str(len([*tmp_path.iterdir()])),
                settings(changes.pop("data", rows), **{"model": str(plain), "steps": 1, **changes}),
            )
        ).manifest["data_hash"]

    first = identity()
    assert identity(seed=1, lr=1e-4) == first
    assert identity(model=str(chatty)) != first
    swapped = write_rows(tmp_path / "swapped.jsonl", map(json.loads, reversed(rows.read_text().splitlines())))
    assert identity(data=swapped) != first


def test_rows_that_come_with_a_task_train_a_preset(tmp_path: Path) -> None:
    run = sl.Run.open(sl.train(tmp_path / "run", TrainConfig(**{**RUN, "task": "questions", "preset": "tiny"})))
    assert run.manifest["config"]["data"] == "stdlib"
    assert run.metrics["eval_loss"].dropna().is_monotonic_decreasing
