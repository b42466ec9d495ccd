"""Twins of GLUE and SuperGLUE: their columns, and metrics that are those of scikit-learn and scipy."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import subspace_lab as sl
from subspace_lab.training import TrainConfig
from subspace_lab.training.memory import trained_shapes
from subspace_lab.training.optimizers import settle_optimizer
from subspace_lab.training.tasks.answers import AnswerTask
from subspace_lab.training.tasks.heads import HeadTask
from subspace_lab.training.tasks.table import LABELLED, model_for, task_of
from subspace_lab.training.trainer import Trainer
from subspace_lab.training.workers import ALONE
from tests.training.tasks.conftest import WORDS

DRAW = random.Random(1)


def text() -> str:
    return " ".join(DRAW.choices(WORDS, k=DRAW.randint(3, 8)))


# Columns of a task as the hub has them, the labels, and the texts that an encoder sees.
TWINS: dict[str, tuple[tuple[str, ...], list, Callable[[dict], tuple[str, ...]]]] = {
    "cola": (("sentence", "idx"), [0, 1], lambda r: (r["sentence"],)),
    "sst2": (("sentence", "idx"), [0, 1], lambda r: (r["sentence"],)),
    "mrpc": (("sentence1", "sentence2", "idx"), [0, 1], lambda r: (r["sentence1"], r["sentence2"])),
    "qqp": (("question1", "question2", "idx"), [0, 1], lambda r: (r["question1"], r["question2"])),
    "qnli": (("question", "sentence", "idx"), ["entailment", "not_entailment"],
             lambda r: (r["question"], r["sentence"])),
    "rte": (("sentence1", "sentence2", "idx"), ["entailment", "not_entailment"],
            lambda r: (r["sentence1"], r["sentence2"])),
    "mnli": (("premise", "hypothesis", "idx"), [0, 1, 2], lambda r: (r["premise"], r["hypothesis"])),
    "stsb": (("sentence1", "sentence2", "idx"), [0.0, 1.25, 2.5, 3.8, 5.0], lambda r: (r["sentence1"], r["sentence2"])),
    "boolq": (("question", "passage", "idx"), [False, True], lambda r: (r["question"], r["passage"])),
    "cb": (("premise", "hypothesis", "idx"), ["entailment", "contradiction", "neutral"],
           lambda r: (r["premise"], r["hypothesis"])),
    "copa": (("premise", "choice1", "choice2", "question", "idx"), [0, 1],
             lambda r: (f"{r['premise']} What is the {r['question']}?", f"{r['choice1']} or {r['choice2']}")),
    "wic": (("word", "sentence1", "sentence2", "idx"), [0, 1],
            lambda r: (f"{r['word']}: {r['sentence1']}", f"{r['word']}: {r['sentence2']}")),
    "multirc": (("paragraph", "question", "answer", "idx"), [0, 1],
                lambda r: (r["paragraph"], f"{r['question']} {r['answer']}")),
}  # fmt: skip


def twin(directory: Path, name: str, form: str, count: int = 48) -> tuple[Path, list[dict]]:
    columns, labels, _ = TWINS[name]
    rows = [
        {**{column: n if column == "idx" else f"{text()} {n}" for column in columns}, "label": labels[n % len(labels)]}
        for n in range(count)
    ]
    path = directory / f"{name}.{form}"
    frame = pd.DataFrame(rows)
    frame.to_csv(path, sep="\t", index=False) if form == "tsv" else frame.to_parquet(path)
    return path, rows


def settings(data: Path, model: Path, **changes) -> TrainConfig:
    shared = {"task": "classification", "data": str(data), "model": str(model), "precision": "float32", "threads": 1}
    return settle_optimizer(
        TrainConfig(**{**shared, "batch_size": 4, "eval_batches": 8, "sequence_length": 64, **changes}).resolved()
    )


@pytest.mark.parametrize("form", ["tsv", "parquet"])
@pytest.mark.parametrize("name", TWINS)
def test_the_columns_of_glue_and_superglue(name: str, form: str, tmp_path: Path) -> None:
    path, rows = twin(tmp_path, name, form)
    split = LABELLED["classification"](str(path), {}).split
    made = {row.texts: row for row in (*split.train, *split.held_out)}
    labels = [str(label).lower() for label in TWINS[name][1]]
    order = sorted(labels)
    for row in rows:
        found = made[TWINS[name][2](row)]
        number = row["label"] if name == "stsb" else order.index(str(row["label"]).lower())
        assert found.label == number
        assert all(value in found.prompt for key, value in row.items() if key not in {"idx", "label"})
    assert len(made) == len(rows)


def predictions(trainer: Trainer, held_out: list) -> np.ndarray:
    """One row at a time, without padding."""
    found = []
    for of in held_out:
        with torch.no_grad():
            inputs = {"input_ids": [[*of.prompt]], **({"token_type_ids": [[*of.segments]]} if of.segments else {})}
            tensors = {key: torch.tensor(value) for key, value in inputs.items()}
            found.append(trainer.model.eval()(**tensors).logits[0].numpy())
    return np.array(found)


@pytest.mark.parametrize("name", ["cola", "mnli", "qnli"])
def test_metrics_of_classes_are_those_of_scikit_learn(name: str, encoder: Path, tmp_path: Path) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    data, _ = twin(tmp_path, name, "parquet", count=200)
    config = settings(data, encoder)
    task = task_of(config, ALONE)
    assert isinstance(task, HeadTask)
    trainer = Trainer(config, task, ALONE)
    with torch.no_grad():  # predictions of several classes
        trainer.model.classifier.bias -= torch.tensor(predictions(trainer, task.held_out).mean(0))
    found = trainer.evaluate()
    right = [int(of.row.label) for of in task.held_out]
    logits = predictions(trainer, task.held_out)
    shares = logits - np.logaddexp.reduce(logits, 1, keepdims=True)
    chosen = logits.argmax(1)
    assert len({*chosen.tolist()}) > 1
    average = "binary" if len(TWINS[name][1]) == 2 else "macro"
    assert found == pytest.approx({
        "eval_loss": -shares[range(len(right)), right].mean(),
        "eval_accuracy": metrics.accuracy_score(right, chosen),
        "eval_f1": metrics.f1_score(right, chosen, average=average),
        "eval_matthews": metrics.matthews_corrcoef(right, chosen),
        "eval_unparsed": 0.0,
    }, rel=1e-4)  # fmt: skip
    assert list(found) == [metric.name for metric in task.metrics]


def test_metrics_of_numbers_are_those_of_scipy(encoder: Path, tmp_path: Path) -> None:
    from scipy import stats

    data, _ = twin(tmp_path, "stsb", "tsv", count=150)
    config = settings(data, encoder)
    task = task_of(config, ALONE)
    trainer = Trainer(config, task, ALONE)
    assert trainer.model.classifier.out_features == 1
    assert (task.metrics[0].name, task.metrics[0].unit) == ("eval_loss", "")
    found = trainer.evaluate()
    right = np.array([of.row.label for of in task.held_out])
    numbers = predictions(trainer, task.held_out)[:, 0]
    assert found == pytest.approx({
        "eval_loss": ((numbers - right) ** 2).mean(),
        "eval_pearson": stats.pearsonr(right, numbers).statistic,
        "eval_spearman": stats.spearmanr(right, numbers).statistic,
        "eval_unparsed": 0.0,
    }, rel=1e-3)  # fmt: skip


def test_written_replies_are_judged_as_classes() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    exercise = LABELLED["sentiment"]("templates", {})
    rows = exercise.split.held_out[:8]
    replies = [rows[0].response, "Positive", "", "negative", "positive", "it is positive", "negative", "positive"]
    found = exercise.combine(rows, np.array([exercise.judge(*pair) for pair in zip(rows, replies, strict=True)]))
    right = [row.response for row in rows]
    assert found["eval_accuracy"] == metrics.accuracy_score(right, replies)
    assert found["eval_f1"] == metrics.f1_score(right, replies, labels=["positive"], average=None)[0]
    parsed = [reply if reply in {"negative", "positive"} else "unparsed" for reply in replies]
    assert found["eval_matthews"] == pytest.approx(metrics.matthews_corrcoef(right, parsed))
    assert found["eval_unparsed"] == 3 / 8


def test_written_numbers_are_judged_as_numbers(tmp_path: Path) -> None:
    data, _ = twin(tmp_path, "stsb", "parquet")
    exercise = LABELLED["classification"](str(data), {})
    row = exercise.split.train[0]
    assert [exercise.judge(row, reply) for reply in ("3.8", "about 2", "", "much")] == [
        (3.8, 0.0), (2.0, 0.0), (0.0, 1.0), (0.0, 1.0),
    ]  # fmt: skip
    same = exercise.combine(exercise.split.held_out, np.ones((len(exercise.split.held_out), 2)))
    assert same == {"eval_pearson": 0.0, "eval_spearman": 0.0, "eval_unparsed": 1.0}


def test_a_causal_model_writes_the_label(plain: Path, tmp_path: Path) -> None:
    data, _ = twin(tmp_path, "cb", "parquet")
    task = task_of(settings(data, plain, sequence_length=512), ALONE)
    assert isinstance(task, AnswerTask)
    assert {of.row.response for of in task.train} == {*TWINS["cb"][1]}
    assert all(of.row.prompt.endswith("Which label: contradiction, entailment, neutral?") for of in task.train)


def test_the_head_is_full_rank_and_a_function_of_the_seed(encoder: Path, tmp_path: Path) -> None:
    data, _ = twin(tmp_path, "mnli", "parquet")
    config = settings(data, encoder, optimizer="grasswalk", rank=4)
    task = task_of(config, ALONE)
    model = model_for(config, task)
    assert model.classifier.out_features == 3
    for group in sl.optim.param_groups(model, rank=4):
        for name in group["param_names"]:
            is_matrix_of_a_block = ".layer." in name and name.endswith(".weight") and "LayerNorm" not in name
            assert (group["rank"] == 4) == (is_matrix_of_a_block or name == "bert.pooler.dense.weight"), name
    assert trained_shapes(config) == {name: tuple(p.shape) for name, p in model.named_parameters()}
    again, other = (model_for(settings(data, encoder, seed=seed), task) for seed in (0, 1))
    assert torch.equal(again.classifier.weight, model.classifier.weight)
    assert not torch.equal(other.classifier.weight, model.classifier.weight)


def test_an_encoder_learns(encoder: Path, tmp_path: Path) -> None:
    rows = [{"text": f"{text()} {word} {n}", "label": word} for n in range(60) for word in ("good", "bad")]
    rows = [row for row in rows if ("good" in row["text"]) != ("bad" in row["text"])]
    pd.DataFrame(rows).to_csv(tmp_path / "rows.csv", index=False)
    config = settings(tmp_path / "rows.csv", encoder, lr=3e-3, steps=120, batch_size=8)
    run = sl.Run.open(sl.train(tmp_path / "run", config))
    accuracy = run.metrics["eval_accuracy"].dropna().tolist()
    assert accuracy[-1] > 0.95 > accuracy[0]
