"""Low-rank adapters (LoRA, arXiv 2106.09685) by peft: which layers get one, and what they change.

Legend: ``W (outputs, inputs)`` the frozen weight; ``A (r, inputs)`` and ``B (outputs, r)`` the adapter, the only
parameters that are trained. The layer computes ``(W + (alpha / r) B A) x`` with ``alpha = 2 r``; B begins at zero.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from subspace_lab._extras import require
from subspace_lab._names import names_of
from subspace_lab._text import nearest_to_pattern
from subspace_lab.capture.naming import depth_of, is_transposed
from subspace_lab.optim.roles import roles_of
from subspace_lab.training.sharding import gathered

_ALPHA_OVER_RANK = 2
_SAMPLE = 64  # entries of a weight that its fingerprint is of


def add_lora(model: nn.Module, *, rank: int, targets: Sequence[str] | None = None) -> None:
    """Give linear layers of a model adapters, in place, and freeze everything else.

    The classification head of an encoder, which no pretraining has seen, stays trainable.

    Args:
        model: A model of transformers, or any other.
        rank: Of the adapters.
        targets: Names of linear layers (``q_proj``) or globs on their paths (``*.self_attn.*``); None for all of
            attention and MLP.

    Raises:
        ModuleNotFoundError: Without the package `peft`.
        ValueError: If a target matches no linear layer; names the nearest.
    """
    peft = require("peft", extra="peft")
    chosen = _chosen(model, targets)
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=_ALPHA_OVER_RANK * rank,
        target_modules=chosen,
        fan_in_fan_out=is_transposed(model.get_submodule(chosen[0])),
    )
    head = [p for name, p in model.named_parameters() if _is_new_head(model, name)]
    peft.inject_adapter_in_model(config, model)
    for p in head:
        p.requires_grad_(True)


def effective_updates(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What the adapters of a model add to its weights: ``(alpha / r) B A``.

    Args:
        model: A model with adapters of peft; of a run's checkpoints, from `RestoredCheckpoints.models`.

    Yields:
        Name of a parameter as in the model without adapters, and its update, of the same shape; one at a time, since
        all of them are as large as the model. Several adapters of a layer are added.

    Raises:
        ValueError: If the model has no such adapters.
    """
    adapted = [(path, m) for path, m in model.named_modules() if is_adapted(m)]
    if not adapted:
        raise ValueError(f"{type(model).__name__} has no LoRA adapters; train with adapter='lora', or add some by peft")
    for path, module in adapted:
        yield f"{path}.weight" if path else "weight", update_of(module)


def is_adapted(module: nn.Module) -> bool:
    """Whether a module is a layer with adapters."""
    return hasattr(module, "base_layer") and hasattr(module, "lora_A")


@torch.no_grad()
def update_of(module: nn.Module) -> Tensor:
    """What the adapters of a layer add to its weight: ``(alpha / r) B A``, in the shape of the weight.

    Args:
        module: A layer with adapters.

    Returns:
        The update; several adapters are added.
    """
    parts = [module.get_delta_weight(name) for name in module.lora_A]  # type: ignore[operator, union-attr]
    total: Tensor = sum(parts[1:], start=parts[0])
    return total


def frozen_beside_adapters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that a model with adapters does not train, under all of their names.

    Args:
        model: Any model.

    Returns:
        Raw name to parameter; nothing for a model without adapters.
    """
    if not any(hasattr(module, "base_layer") for module in model.modules()):
        return {}
    return {name: p for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}


def fingerprint(parameters: dict[str, nn.Parameter]) -> str:
    """A hash by which other weights are told: names, shapes and some entries of each, spread evenly.

    All processes that hold a shard of them call this.

    Args:
        parameters: By name.

    Returns:
        64 hexadecimal digits.
    """
    hashed = hashlib.sha256()
    for name, p in sorted(parameters.items()):
        flat = gathered(p.detach()).reshape(-1)
        places = torch.arange(min(_SAMPLE, len(flat)), device=flat.device) * len(flat) // _SAMPLE
        hashed.update(f"{name} {tuple(p.shape)} {flat[places].double().tolist()}\n".encode())
    return hashed.hexdigest()


def _chosen(model: nn.Module, targets: Sequence[str] | None) -> list[str]:
    """Paths of the layers that get an adapter."""
    owner = type(model).__name__
    linear = [path for path, module in model.named_modules() if isinstance(module, nn.Linear) or is_transposed(module)]
    if targets is None:
        names, roles = names_of(model), roles_of(model)
        ranked = {raw for raw, name in names.items() if name in roles and roles[name].reason is None}
        default = [path for path in linear if f"{path}.weight" in ranked and depth_of(f"{path}.weight") >= 0]
        if not default:
            raise ValueError(f"{owner} has no linear layers in blocks; name some with adapter_targets")
        return default
    for target in targets:
        if not any(_matches(path, target) for path in linear):
            near = nearest_to_pattern(target, {path.rpartition(".")[2]: None for path in linear})
            raise ValueError(f"adapter_targets: {target!r} matches no linear layer of {owner}; nearest: {near}")
    return [path for path in linear if any(_matches(path, target) for target in targets)]


def _matches(path: str, target: str) -> bool:
    return path == target or path.endswith(f".{target}") or fnmatchcase(path, target)


def _is_new_head(model: nn.Module, name: str) -> bool:
    """Whether a parameter is of a classification head: outside of the pretrained part."""
    backbone = getattr(model, "base_model_prefix", "")
    return type(model).__name__.endswith("ForSequenceClassification") and not name.startswith(f"{backbone}.")
