"""Labelled tasks of models that write: the loss is that of the response, and replies are judged."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from subspace_lab.training.config import TrainConfig
from subspace_lab.training.tasks.base import Batch
from subspace_lab.training.tasks.exercise import Exercise
from subspace_lab.training.tasks.generation import positions_of, replies
from subspace_lab.training.tasks.labelled import Encoded, LabelledTask, Measured
from subspace_lab.training.tasks.template import Template
from subspace_lab.training.workers import Workers

NOT_COUNTED = -100  # the label of a position without a loss, as torch and transformers have it


class AnswerTask(LabelledTask):
    """Prompts with responses; the loss is the mean cross-entropy of the responses' tokens in nats.

    The mean is over all tokens of a step's responses, end marks included: a micro-batch weighs as much as it has.

    Args:
        config: A resolved configuration.
        exercise: Rows, judge and metrics.
        template: Turns rows into tokens.
        workers: Processes that share an evaluation.

    Attributes:
        template: Turns rows into tokens.
    """

    def __init__(self, config: TrainConfig, exercise: Exercise, template: Template, workers: Workers) -> None:
        super().__init__(config, exercise, lambda row: Encoded(row, *template.tokens(row)), workers)
        assert config.sequence_length
        self.template = template
        self._check_lengths(config.sequence_length)
        longest = max(len(of.response) for of in self.held_out)
        self._new_tokens = 2 * longest

    @classmethod
    def of(cls, config: TrainConfig, exercise: Exercise, workers: Workers) -> Self:
        """The task of a configuration; see `Template.of`."""
        return cls(config, exercise, Template.of(config, exercise.split), workers)

    def collate(self, rows: Sequence[Encoded]) -> Batch:
        """Rows as tensors, padded on the right; labels are `NOT_COUNTED` outside of responses."""
        length = max(of.length for of in rows)
        tokens = torch.full((len(rows), length), self.template.end)
        labels = torch.full((len(rows), length), NOT_COUNTED)
        mask = torch.zeros((len(rows), length), dtype=torch.int64)
        for place, of in enumerate(rows):
            tokens[place, : of.length] = torch.tensor([*of.prompt, *of.response])
            labels[place, len(of.prompt) : of.length] = torch.tensor([*of.response])
            mask[place, : of.length] = 1
        return {"input_ids": tokens, "attention_mask": mask, "labels": labels}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """See `Task.loss`."""
        loss: Tensor = model(**batch).loss
        return loss

    def weight(self, batch: Batch) -> float:
        """See `Weighted.weight`: the tokens of the responses; nothing predicts the first token of a row."""
        return float((batch["labels"][:, 1:] != NOT_COUNTED).sum())

    def measure(self, model: nn.Module, batches: Sequence[Sequence[Encoded]]) -> list[Measured]:
        """See `LabelledTask.measure`; a loss is of one micro-batch, replies are written to all of them together."""
        device = next(model.parameters()).device
        together = [of for rows in batches for of in rows]
        longest = max(len(of.prompt) for of in self.held_out)  # would shorten all replies beside its own
        asked = [together] if longest + self._new_tokens <= positions_of(model) else batches
        written = itertools.chain.from_iterable(
            replies(model, [of.prompt for of in rows], self._new_tokens, end=self.template.end) for rows in asked
        )
        found = []
        for rows in batches:
            batch = self.collate(rows)
            loss = self.loss(model, {name: tensor.to(device) for name, tensor in batch.items()}).item()
            judged = [self.exercise.judge(of.row, self.template.text(next(written))) for of in rows]
            found.append((loss, self.weight(batch), np.array(judged, dtype=np.float64)))
        return found

    def _check_lengths(self, most: int) -> None:
        """Leave out rows that are too long, and say so; a response alone that is too long is refused."""
        for part, rows in (("to train on", self.train), ("held out", self.held_out)):
            for number, of in enumerate(rows, 1):
                if len(of.response) >= most:  # no text: the rows may be somebody's that nobody should read
                    raise ValueError(
                        f"{self.exercise.split.origin}: the response of row {number} {part} has {len(of.response)} "
                        f"tokens, sequence_length={most} has no room for it and a prompt; give a larger one"
                    )
        longest = max(of.length for of in (*self.train, *self.held_out))
        if longest <= most:
            return
        kept = [[of for of in rows if of.length <= most] for rows in (self.train, self.held_out)]
        left = len(self.train) + len(self.held_out) - sum(map(len, kept))
        if not all(kept):
            raise ValueError(
                f"{self.exercise.split.origin}: no row to train on or none held out has at most "
                f"sequence_length={most} tokens; give a larger one (the longest has {longest})"
            )
        print(
            f"{left} rows have more than sequence_length={most} tokens and are left out (the longest has {longest})",
            file=sys.stderr,
        )
        self.train, self.held_out = kept
