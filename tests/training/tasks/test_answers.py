"""The loss of responses: per token over the batch, nothing outside of them, and the same words in evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from subspace_lab.training import TrainConfig
from subspace_lab.training.optimizers import settle_optimizer
from subspace_lab.training.tasks import answers
from subspace_lab.training.tasks.answers import NOT_COUNTED, AnswerTask
from subspace_lab.training.tasks.generation import replies
from subspace_lab.training.tasks.table import model_for, task_of
from subspace_lab.training.trainer import Trainer
from subspace_lab.training.workers import ALONE, Workers


def settings(rows: Path, model: Path, **changes) -> TrainConfig:
    shared = {"task": "file", "data": str(rows), "model": str(model), "precision": "float32", "threads": 1}
    return settle_optimizer(TrainConfig(**{**shared, "batch_size": 2, "accumulation": 4, **changes}).resolved())


def trainer_of(rows: Path, model: Path, **changes) -> Trainer:
    config = settings(rows, model, **changes)
    task = task_of(config, ALONE)
    return Trainer(config, task, ALONE, model_for(config, task).double())


def gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in trainer.model.named_parameters()}


def mean_over_tokens(trainer: Trainer, step: int) -> tuple[float, int]:
    """The literal loss: token by token, a row at a time and without padding; and how many tokens there are."""
    task, count = trainer._task, 8
    losses = []
    batch = task.batch(step * count, count, seed=0)
    for tokens, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        length = int(mask.sum())
        with torch.no_grad():
            scores = trainer.model(input_ids=tokens[None, :length]).logits[0].log_softmax(-1)
        for place in range(1, length):
            if labels[place] != NOT_COUNTED:
                assert labels[place] == tokens[place]
                losses.append(-scores[place - 1, tokens[place]].item())
    return float(np.mean(losses)), len(losses)


@pytest.mark.parametrize("chat", [False, True])
def test_accumulation_over_unequal_lengths_gives_the_loss_and_the_gradient_of_one_batch(
    rows: Path, chatty: Path, plain: Path, chat: bool
) -> None:
    model = chatty if chat else plain
    found = {}
    for batch_size, accumulation in ((8, 1), (2, 4), (1, 8), (4, 2)):
        trainer = trainer_of(rows, model, batch_size=batch_size, accumulation=accumulation)
        found[batch_size] = trainer.backward(1), gradients(trainer)
    expected, counted = mean_over_tokens(trainer, 1)
    assert counted > 8
    for loss, gradient in found.values():
        assert loss == pytest.approx(expected, rel=1e-6)
        for name, of in gradient.items():
            other = found[8][1][name]
            assert (of - other).norm() <= 1e-6 * other.norm(), name  # norms and softmax of transformers are float32
    rows_alone = [trainer._task.loss(trainer.model, trainer._task.batch(8 + k, 1, seed=0)).item() for k in range(8)]
    assert np.mean(rows_alone) != pytest.approx(expected, rel=1e-5), "a mean over rows is another number"


class Others(Workers):
    """One process among two; sums are those that both together have."""

    totals: tuple[float, ...] = ()

    def sums(self, values):
        return [self.totals[0]] if self.totals else list(values)


def test_processes_weigh_as_their_tokens(rows: Path, plain: Path) -> None:
    whole = trainer_of(rows, plain, batch_size=4, accumulation=2)
    expected = whole.backward(0)
    total = sum(whole._task.weight(whole._micro_batch(0, micro)) for micro in range(2))
    parts = []
    for rank in range(2):
        trainer = trainer_of(rows, plain, batch_size=4, accumulation=2)
        trainer._workers, trainer._share = Others(rank, 2, torch.device("cpu")), 2
        Others.totals = (total,)
        divisors = trainer._divisors([trainer._micro_batch(0, micro) for micro in range(2)])
        for micro, divisor in enumerate(divisors):
            (trainer._task.loss(trainer.model, trainer._micro_batch(0, micro)) / divisor).backward()
            parts.append(trainer._task.loss(trainer.model, trainer._micro_batch(0, micro)).item() / divisor)
        found = gradients(trainer) if rank == 0 else {n: (found[n] + g) / 2 for n, g in gradients(trainer).items()}
    Others.totals = ()
    assert sum(parts) / 2 == pytest.approx(expected, rel=1e-6)
    for name, gradient in gradients(whole).items():
        assert (found[name] - gradient).norm() <= 1e-6 * gradient.norm()


def test_what_is_not_a_response_contributes_nothing(rows: Path, plain: Path) -> None:
    """The derivative by the logits: zero wherever no token of a response is predicted, and nowhere else."""
    trainer = trainer_of(rows, plain)
    batch = trainer._task.batch(0, 6, seed=0)
    kept = []
    handle = trainer.model.lm_head.register_forward_hook(lambda module, inputs, out: kept.append(out))
    loss = trainer._task.loss(trainer.model, batch)
    handle.remove()
    by_place = torch.autograd.grad(loss, kept[0])[0].abs().sum(-1)
    predicted = torch.zeros_like(by_place, dtype=torch.bool)
    predicted[:, :-1] = batch["labels"][:, 1:] != NOT_COUNTED
    assert (by_place[~predicted] == 0).all()
    assert (by_place[predicted] > 0).all()


def test_padding_changes_nothing(rows: Path, plain: Path) -> None:
    trainer = trainer_of(rows, plain)
    batch = trainer._task.batch(0, 5, seed=0)
    expected = trainer._task.loss(trainer.model, batch).item()
    tail = {"input_ids": 7, "attention_mask": 0, "labels": NOT_COUNTED}
    longer = {name: torch.nn.functional.pad(of, (0, 9), value=tail[name]) for name, of in batch.items()}
    assert trainer._task.loss(trainer.model, longer).item() == pytest.approx(expected, rel=1e-6)


def test_a_chat_template_makes_prompts_and_responses(rows: Path, chatty: Path) -> None:
    task = task_of(settings(rows, chatty), ALONE)
    assert isinstance(task, AnswerTask)
    of = task.train[0]
    decode = task.template.tokenizer.decode
    assert decode([*of.prompt], skip_special_tokens=False) == f"<|user|>{of.row.prompt}<|end|>\n<|assistant|>"
    assert decode([*of.response], skip_special_tokens=False) == f"{of.row.response}<|end|>"
    assert task.template.text(of.response) == of.row.response


def test_without_one_a_space_is_between(rows: Path, plain: Path) -> None:
    task = task_of(settings(rows, plain), ALONE)
    of = task.train[0]
    text = task.template.tokenizer.decode([*of.prompt, *of.response], skip_special_tokens=False)
    assert text == f"{of.row.prompt} {of.row.response}<|end|>"


def test_replies_are_the_likeliest_tokens_whatever_the_model_says_of_sampling(rows: Path, plain: Path) -> None:
    trainer = trainer_of(rows, plain)
    trainer.model.eval()
    prompts = [[5, 6, 7, 8], [9], [10, 11]]
    found = replies(trainer.model, prompts, 6, end=0)
    for prompt, reply in zip(prompts, found, strict=True):
        tokens, expected = list(prompt), []
        while len(expected) < 6 and 0 not in expected:
            with torch.no_grad():
                expected.append(int(trainer.model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
            tokens.append(expected[-1])
        assert reply == expected
    assert trainer.model.generation_config.do_sample is True


def test_a_model_that_knows_the_answers_gets_them_right(rows: Path, plain: Path) -> None:
    """Trained on a few rows until it knows them, and evaluated on the same ones."""
    trainer = trainer_of(rows, plain, lr=1e-2, steps=300, warmup=5, batch_size=4, accumulation=1, eval_batches=1)
    task = trainer._task
    task.train = task.held_out = task.held_out[:4]
    before = trainer.evaluate()
    for step in range(150):
        trainer.backward(step)
        trainer.update(step, trainer.gradient_norm())
        trainer.optimizer.zero_grad()
    after = trainer.evaluate()
    assert before["eval_exact"] == 0
    assert after["eval_exact"] == after["eval_f1"] == 1
    assert after["eval_loss"] < 0.1 < before["eval_loss"]
    loss, counted = [], 0.0
    for of in task.held_out:
        batch = task.collate([of])
        counted += task.weight(batch)
        loss.append(task.loss(trainer.model.eval(), batch).item() * task.weight(batch))
    assert after["eval_loss"] == pytest.approx(sum(loss) / counted, rel=1e-6)


def test_rows_that_are_too_long_are_left_out_and_counted(
    rows: Path, plain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = task_of(settings(rows, plain), ALONE)
    lengths = sorted(of.length for of in (*whole.train, *whole.held_out))
    most = lengths[-4] - 1 if lengths[-5] < lengths[-4] else lengths[-5]
    kept = task_of(settings(rows, plain, sequence_length=most), ALONE)
    left = sum(length > most for length in lengths)
    assert len(kept.train) + len(kept.held_out) == len(lengths) - left
    assert kept.tokens_per_row == round(sum(of.length for of in kept.train) / len(kept.train))
    assert kept.largest_token == max(max([*of.prompt, *of.response]) for of in (*kept.train, *kept.held_out))
    assert f"{left} rows have more than sequence_length={most} tokens and are left out" in capsys.readouterr().err


@pytest.mark.parametrize(("spare", "asked"), [(0, [6]), (-1, [3, 3])])
def test_micro_batches_are_replied_to_together_unless_that_shortens_replies(
    spare: int, asked: list[int], rows: Path, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(rows, plain, batch_size=3, accumulation=1, eval_batches=2)
    task, sizes = trainer._task, []
    needed = max(len(of.prompt) for of in task.held_out) + 2 * max(len(of.response) for of in task.held_out)
    task._new_tokens = needed - max(len(of.prompt) for of in task.held_out)
    trainer.model.config.max_position_embeddings = needed + spare

    def counted(model, prompts, *_, **__):
        sizes.append(len(prompts))
        return [[0] for _ in prompts]

    monkeypatch.setattr(answers, "replies", counted)
    trainer.evaluate()
    assert sizes == asked
