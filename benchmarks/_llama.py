"""A LLaMA of a preset's size, and one real backward pass through it."""

from __future__ import annotations

import torch
from torch import Tensor

from subspace_lab.training import TrainConfig
from subspace_lab.training.models import build_model

LINEARS = ("*.self_attn.*", "*.mlp.*")


def build(name: str) -> torch.nn.Module:
    """The model at its random initialization, as a training run with seed 0 begins."""
    return build_model(TrainConfig(preset=name).resolved())


def backward(model: torch.nn.Module, sequences: int = 8, tokens: int = 128) -> Tensor:
    """One forward and backward pass on random tokens; returns the loss."""
    vocab_size = model.get_input_embeddings().num_embeddings
    ids = torch.randint(vocab_size, (sequences, tokens), generator=torch.Generator().manual_seed(1))
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return loss.detach()
