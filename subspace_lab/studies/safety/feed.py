"""Rows as a training takes them, and the losses of a step on rows of several kinds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from subspace_lab.studies.safety.context import Kind, Loss
from subspace_lab.training import TrainConfig
from subspace_lab.training.tasks.answers import NOT_COUNTED, AnswerTask
from subspace_lab.training.tasks.base import Batch
from subspace_lab.training.tasks.exercise import scored
from subspace_lab.training.tasks.labelled import Encoded
from subspace_lab.training.tasks.rows import Row, Split
from subspace_lab.training.tasks.template import Template
from subspace_lab.training.workers import ALONE

_KINDS: tuple[Kind, ...] = ("user", "safety", "harm")


class Feed(AnswerTask):
    """Rows to train on, none of them held out: what a model has learned is judged in a job of its own.

    Args:
        config: A resolved configuration.
        rows: At least one.
        template: Turns rows into tokens.
    """

    def __init__(self, config: TrainConfig, rows: Sequence[Row], template: Template) -> None:
        super().__init__(config, scored(Split(rows, rows[:1]), (), lambda *_: ()), template, ALONE)

    def facts(self) -> dict[str, Any]:
        """See `Task.facts`: a row that is trained on."""
        return {**super().facts(), "held_out": False}

    def batches(self, rows: Sequence[Row], size: int) -> Iterator[Batch]:
        """Other rows, so many at a time."""
        for start in range(0, len(rows), size):
            yield self.collate([Encoded(row, *self.template.tokens(row)) for row in rows[start : start + size]])

    def _check_lengths(self, most: int) -> None:
        """Refuse rows that are too long, so that their number stays; no text of a row is shown."""
        longest = max(of.length for of in self.train)
        if longest > most:
            count = sum(of.length > most for of in self.train)
            raise ValueError(
                f"{count} of {len(self.train)} rows have more than sequence_length={most} tokens (the longest has "
                f"{longest}); give a larger one"
            )


class StepLosses:
    """The losses of a training's steps; the batch of a kind is a function of the seed, the step and the kind.

    Args:
        model: The model that is trained.
        feeds: Rows by kind.
        config: Of the training.
        aligned: Loads the aligned model, for the divergence from it; called when that is first asked for.
    """

    def __init__(
        self, model: nn.Module, feeds: Mapping[str, Feed], config: TrainConfig, aligned: Callable[[], nn.Module] | None
    ) -> None:
        self._model, self._feeds, self._config = model, feeds, config
        self._aligned = None if aligned is None else functools.cache(aligned)
        self._device = next(model.parameters()).device
        self._autocast = functools.partial(
            torch.autocast, self._device.type, torch.bfloat16, enabled=config.precision == "bfloat16"
        )

    def has(self, *kinds: Kind) -> bool:
        """Whether there are rows of all of some kinds."""
        return self._feeds.keys() >= {*kinds}

    def of_step(self, step: int, seen: dict[str, float]) -> Callable[[Kind, str | Loss], Iterator[Tensor]]:
        """What `StepContext` takes its losses from.

        Args:
            step: Steps taken before.
            seen: Gets the value of the first loss of each kind.

        Returns:
            Of a kind and a loss, the parts of the loss: one per micro-batch, weighed by its tokens as in training.
        """

        def parts(kind: Kind, loss: str | Loss) -> Iterator[Tensor]:
            if kind not in self._feeds:
                raise ValueError(f"there are no {kind} rows in this study; choose a defense that needs none")
            feed, total = self._feeds[kind], 0.0
            batches = [self._batch(feed, kind, step, micro) for micro in range(self._config.accumulation or 1)]
            weights = [feed.weight(batch) for batch in batches]
            for batch, weight in zip(batches, weights, strict=True):
                with self._autocast():
                    part = self._loss(loss, batch) * (weight / sum(weights))
                total += part.item()
                yield part
            seen.setdefault(kind, total)

        return parts

    def _batch(self, feed: Feed, kind: Kind, step: int, micro: int) -> Batch:
        """For user rows the very batch that the plain training has."""
        size, config = self._config.batch_size or 1, self._config
        words = np.random.SeedSequence([config.seed, _KINDS.index(kind)]).generate_state(1)
        seed = config.seed if kind == "user" else int(words[0])
        batch = feed.batch((step * (config.accumulation or 1) + micro) * size, size, seed=seed)
        return {name: tensor.to(self._device) for name, tensor in batch.items()}

    def _loss(self, loss: str | Loss, batch: Batch) -> Tensor:
        if callable(loss):
            return loss(self._model, batch)
        if loss == "ce":
            found: Tensor = self._model(**batch).loss
            return found
        if loss != "kl":
            raise ValueError(f"a loss is ce, kl or a function of model and batch, got {loss!r}")
        if self._aligned is None:
            raise ValueError("there is no aligned model here to diverge from; take the loss ce")
        return divergence(self._model, self._aligned(), batch)


def divergence(model: nn.Module, aligned: nn.Module, batch: Batch) -> Tensor:
    """``KL(p_aligned || p)``, the mean over the tokens of the responses, in nats.

    Args:
        model: Gets the gradient.
        aligned: Stays as it is.
        batch: With labels, `NOT_COUNTED` outside of responses.

    Returns:
        A scalar, 0 for equal models.
    """
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    counted = batch["labels"][:, 1:] != NOT_COUNTED
    with torch.no_grad():
        log_p = aligned(**inputs).logits[:, :-1][counted].float().log_softmax(-1)
    log_q = model(**inputs).logits[:, :-1][counted].float().log_softmax(-1)
    found: Tensor = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    return found
