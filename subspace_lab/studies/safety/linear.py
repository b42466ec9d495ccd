"""The linear layers of a model, with adapters or without: their weights, and the second moments of their inputs.

Legend: ``W (outputs, inputs)`` the weight that a layer computes with, of an adapted one ``W_frozen + (alpha / r) B A``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from subspace_lab.capture.naming import depth_of, is_transposed
from subspace_lab.training.adapters import is_adapted, update_of
from subspace_lab.training.tasks.base import Batch

_MOST_BYTES = 2 << 30  # of second moments that are summed up in one pass


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The linear layers in blocks; of a model without blocks all but the head.

    Args:
        model: The model, with adapters of peft or without.

    Returns:
        Name of the weight as in the model without adapters, and the layer, the adapted one where there is one.

    Raises:
        ValueError: If there is none.
    """
    found: dict[str, nn.Module] = {}
    adapted: list[str] = []
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer in adapted)
        if not inside and (is_adapted(module) or isinstance(module, nn.Linear) or is_transposed(module)):
            found[f"{path}.weight" if path else "weight"] = module
            adapted += [path] * is_adapted(module)
    head = getattr(model, "get_output_embeddings", lambda: None)()
    in_blocks = {name: module for name, module in found.items() if depth_of(name) >= 0 and module is not head}
    layers = in_blocks or {name: module for name, module in found.items() if module is not head}
    if not layers:
        raise ValueError(f"{type(model).__name__} has no linear layers, which the defense acts on")
    return layers


def weight_of(layer: nn.Module, stored: Tensor | None = None, *, less: Tensor | None = None) -> Tensor:
    """The weight that a layer computes with, or another one stored as its own is, minus an earlier one.

    Args:
        layer: From `linear_layers`.
        stored: A tensor as the layer stores its weight; None for its own, adapters merged.
        less: ``(outputs, inputs)``; subtracted before the adapters are added, so that nothing of a small update is
            rounded away.

    Returns:
        A new tensor ``(outputs, inputs)`` in the layer's precision, on its device.
    """
    own = _frozen_part(layer)
    weight = (own.weight if stored is None else stored).detach().to(own.weight, copy=True)
    if is_transposed(own):
        weight = weight.T.contiguous()
    if less is not None:
        weight -= less
    if stored is None and is_adapted(layer):
        added = update_of(layer)
        weight += (added.T if is_transposed(own) else added).to(weight)
    return weight


@torch.no_grad()
def write_weight(layer: nn.Module, weight: Tensor) -> None:
    """Make a layer compute with a weight: an adapter's B becomes zero, the layer below it gets all.

    Args:
        layer: From `linear_layers`.
        weight: ``(outputs, inputs)``.
    """
    own = _frozen_part(layer)
    own.weight.copy_(weight.T if is_transposed(own) else weight)
    if is_adapted(layer):
        for up in layer.lora_B.values():  # type: ignore[operator]
            up.weight.zero_()


def second_moments(
    model: nn.Module, batches: Iterable[Batch], layers: Mapping[str, nn.Module], first: str
) -> dict[str, Tensor]:
    """``X^T X / n`` of the inputs of layers, n tokens, summed up while the batches pass.

    Args:
        model: The model.
        batches: Of rows; positions that their ``attention_mask`` leaves out do not count.
        layers: By name.
        first: The layer that is asked for; those behind it are measured in the same pass, up to 2 GiB of them.

    Returns:
        Name to a symmetric tensor ``(inputs, inputs)``, float32 or the precision of the inputs if that is higher.
    """
    names, size = [*layers], 0
    sums: dict[str, Tensor] = {}
    for name in names[names.index(first) :]:
        inputs = weight_of(layers[name]).shape[1]
        size += 4 * inputs**2
        if sums and size > _MOST_BYTES:
            break
        sums[name] = torch.zeros((), device=next(model.parameters()).device)
    tokens = dict.fromkeys(sums, 0)

    def add(name: str, X: Tensor) -> None:
        sums[name] = sums[name] + X.T @ X
        tokens[name] += len(X)

    show_inputs(model, batches, {name: layers[name] for name in sums}, add)
    return {name: total / tokens[name] for name, total in sums.items()}


@torch.no_grad()
def show_inputs(
    model: nn.Module, batches: Iterable[Batch], layers: Mapping[str, nn.Module], look: Callable[[str, Tensor], None]
) -> None:
    """Run a model over batches, without dropout, and show the inputs of layers.

    Args:
        model: The model; its hooks are removed afterwards.
        batches: Of rows.
        layers: By name.
        look: Called with a name and inputs ``(tokens, inputs)``, at least float32, once for every batch and layer;
            without the tokens that an ``attention_mask`` leaves out.
    """
    mask: list[Tensor] = []

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            X = args[0].detach().reshape(-1, args[0].shape[-1])
            kept = X[mask[0]] if mask and len(mask[0]) == len(X) else X
            look(name, kept.to(torch.promote_types(kept.dtype, torch.float32)))

        return hook

    was_training = model.training
    model.eval()
    with ExitStack() as stack:
        stack.callback(model.train, was_training)
        for name, layer in layers.items():
            stack.callback(layer.register_forward_pre_hook(watch(name)).remove)
        for batch in batches:
            mask[:] = [batch["attention_mask"].bool().reshape(-1)] if "attention_mask" in batch else []
            model(**{name: tensor for name, tensor in batch.items() if name != "labels"})


def _frozen_part(layer: nn.Module) -> Any:
    return layer.base_layer if is_adapted(layer) else layer
