"""Optimizers by name: to add one, add a constructor to the table."""

from __future__ import annotations

from collections.abc import Callable

import torch

from subspace_lab.training.config import TrainConfig
from subspace_lab.training.names import unknown


def _adamw(model: torch.nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        _trainable(model), lr=config.lr or 0.0, betas=config.betas, weight_decay=config.weight_decay, fused=True
    )


OPTIMIZERS: dict[str, Callable[[torch.nn.Module, TrainConfig], torch.optim.Optimizer]] = {"adamw": _adamw}


def build_optimizer(model: torch.nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer of a configuration over a model's trainable parameters.

    Args:
        model: On its device already.
        config: A resolved configuration.

    Returns:
        The optimizer.
    """
    return OPTIMIZERS[config.optimizer](model, config)


def check_optimizer(name: str) -> None:
    """Refuse an optimizer that does not exist, before any work is done.

    Args:
        name: The optimizer's name.

    Raises:
        ValueError: If it is not in the table.
    """
    if name not in OPTIMIZERS:
        raise ValueError(unknown("optimizer", name, OPTIMIZERS))


def _trainable(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
