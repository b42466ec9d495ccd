"""The log-probabilities of the tokens of responses, of a model and of the same model with other weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from subspace_lab.training.tasks.base import Batch

_NOT_COUNTED = -100


def log_probabilities(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The log-probability of every token that is a label.

    Args:
        logits: ``(rows, tokens, vocabulary)``.
        labels: ``(rows, tokens)``, -100 for what has no loss.

    Returns:
        Log-probabilities ``(rows, tokens - 1)`` in nats, at least float32, and which of them count.
    """
    targets = labels[:, 1:]
    counted = targets != _NOT_COUNTED
    scores = logits[:, :-1]
    found = scores.to(torch.promote_types(scores.dtype, torch.float32)).log_softmax(-1)
    return found.gather(-1, targets.clamp_min(0)[..., None])[..., 0], counted


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over tokens of responses of ``-log p``.

    Args:
        logits: ``(rows, tokens, vocabulary)``.
        labels: ``(rows, tokens)``, -100 for what has no loss.

    Returns:
        A scalar in nats.
    """
    found, counted = log_probabilities(logits, labels)
    return -found[counted].mean()


def outputs(model: nn.Module, batch: Batch) -> Any:
    """What a model of transformers gives for a batch, without its loss."""
    return model(**{name: tensor for name, tensor in batch.items() if name != "labels"})


@torch.no_grad()
def logits_with(model: nn.Module, batch: Batch, parameters: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    """The logits of a model whose parameters have other values; the model is not changed.

    Args:
        model: The model.
        batch: For it.
        parameters: Some of the model's.
        values: Of these, in their order.

    Returns:
        ``(rows, tokens, vocabulary)``, without a graph.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    instead = {names[id(p)]: value.to(p) for p, value in zip(parameters, values, strict=True)}
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    found: Tensor = torch.func.functional_call(model, instead, (), inputs).logits
    return found
