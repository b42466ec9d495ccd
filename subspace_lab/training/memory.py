"""Bytes of a training by formula: what `subspace_lab.optim.memory_report` says of a configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from subspace_lab.optim import MemoryReport, memory_report, method_named
from subspace_lab.optim.planned_state import Shapes, planned_bytes
from subspace_lab.training.config import TrainConfig
from subspace_lab.training.presets import parameter_shapes, preset
from subspace_lab.training.tasks.table import model_of


def trained_shapes(config: TrainConfig) -> Shapes:
    """Names and shapes of the parameters that a configuration trains.

    Args:
        config: A resolved configuration.

    Returns:
        Shape by name.
    """
    if config.preset is not None and config.adapter is None:
        size = preset(config.preset)
        return parameter_shapes(dataclasses.replace(size, vocab_size=config.vocab_size or size.vocab_size))
    with torch.random.fork_rng(devices=[]):
        model = model_of(config)
    return {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}


def memory_of(config: TrainConfig) -> MemoryReport:
    """Bytes of a training of a preset in each process that has all of it, activations excepted.

    Args:
        config: Of a preset, without a plan.

    Returns:
        The memory report.
    """
    assert config.preset is not None
    kind = method_named(config.optimizer)
    rank = config.rank or preset(config.preset).usual_rank
    return memory_report(trained_shapes(config), kind, rank=rank, **_known_options(config, kind))


def state_bytes(config: TrainConfig, plan: Mapping[str, Any] | None = None) -> int | None:
    """What the optimizer of a training keeps, by formula.

    Args:
        config: The configuration.
        plan: The content of the plan that its optimizer is made of, if any.

    Returns:
        The bytes; None for a pretrained model, and where the configuration names a plan that is not given.
    """
    if config.preset is None:
        return None
    if "plan" not in (config.optimizer_options or {}):
        return memory_of(config).optimizer
    options = _known_options(config, method_named(config.optimizer))
    return None if plan is None else planned_bytes(trained_shapes(config), plan, options)


def _known_options(config: TrainConfig, kind: type[torch.optim.Optimizer]) -> dict[str, Any]:
    known = getattr(kind, "options", ())
    return {name: value for name, value in (config.optimizer_options or {}).items() if name in known}
