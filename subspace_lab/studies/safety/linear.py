"""The linear layers of a model, with adapters or without: their weights, and the second moments of their inputs.

Legend: ``W (outputs, inputs)`` the weight that a layer computes with, of an adapted one ``W_frozen + (alpha / r) B A``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from subspace_lab.capture.naming import depth_of, is_transposed
from subspace_lab.training.adapters import is_adapted, update_of
from subspace_lab.training.tasks.base import Batch

_MOST_BYTES = 2 << 30  # of second moments that are summed up in one pass


def weights_by_name(model: nn.Module) -> dict[str, nn.Module | nn.Parameter]:
    """What holds each weight of a model, by its name in the model without adapters; tied ones once.

    Args:
        model: The model, with adapters of peft or without.

    Returns:
        The layer for the weight of a linear layer, the adapted one where there is one; else the parameter.
    """
    held: dict[str, nn.Module] = {}
    for path, module in model.named_modules():
        if is_adapted(module):
            held[f"{path}.base_layer.weight" if path else "base_layer.weight"] = module
        elif isinstance(module, nn.Linear) or is_transposed(module):
            held.setdefault(f"{path}.weight" if path else "weight", module)
    named = {name: held.get(name, p) for name, p in model.named_parameters() if "lora_" not in name}
    return {name.replace("base_layer.", ""): holder for name, holder in named.items()}


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The linear layers in blocks; of a model without blocks all but the head.

    Args:
        model: The model, with adapters of peft or without.

    Returns:
        Name of the weight as in the model without adapters, and the layer, the adapted one where there is one.

    Raises:
        ValueError: If there is none.
    """
    head = getattr(model, "get_output_embeddings", lambda: None)()
    found = {
        name: holder
        for name, holder in weights_by_name(model).items()
        if isinstance(holder, nn.Module) and holder is not head
    }
    layers = {name: layer for name, layer in found.items() if depth_of(name) >= 0} or found
    if not layers:
        raise ValueError(f"{type(model).__name__} has no linear layers, which the defense acts on")
    return layers


@dataclass(frozen=True)
class Parts:
    """What the weight of a linear layer is made of.

    Attributes:
        parameters: The weight, or A and B.
        scale: Of an adapter ``alpha / r``, else 1.
        is_transposed: Whether the weight is stored as ``(inputs, outputs)``.
    """

    parameters: tuple[nn.Parameter, ...]
    scale: float = 1.0
    is_transposed: bool = False


def parts_of(layer: nn.Module) -> Parts:
    """The parameters by which tuning changes a layer.

    Args:
        layer: From `linear_layers`.

    Returns:
        Its weight; or A and B of its adapter, where ``D = scale B A`` is ``(outputs, inputs)``.

    Raises:
        ValueError: If a layer has several adapters.
    """
    held: Any = layer
    if not is_adapted(layer):
        return Parts((held.weight,), is_transposed=is_transposed(layer))
    if len(held.lora_A) > 1:
        raise ValueError(f"a layer has the adapters {', '.join(held.lora_A)}; leave one")
    (name,) = held.lora_A
    return Parts((held.lora_A[name].weight, held.lora_B[name].weight), held.scaling[name])


def weight_of(layer: nn.Module | nn.Parameter, stored: Tensor | None = None, *, less: Tensor | None = None) -> Tensor:
    """The weight that a layer computes with, or another one stored as its own is, minus an earlier one.

    Args:
        layer: From `weights_by_name`.
        stored: A tensor as the layer stores its weight; None for its own, adapters merged.
        less: ``(outputs, inputs)``; subtracted before the adapters are added, so that nothing of a small update is
            rounded away.

    Returns:
        A new tensor in the layer's precision, on its device: ``(outputs, inputs)``, or as a parameter of no linear
        layer is.
    """
    own, flipped = _frozen_part(layer)
    weight = (own if stored is None else stored).detach().to(own, copy=True)
    if flipped:
        weight = weight.T.contiguous()
    if less is not None:
        weight -= less
    if stored is None and isinstance(layer, nn.Module) and is_adapted(layer):
        added = update_of(layer)
        weight += (added.T if flipped else added).to(weight)
    return weight


@torch.no_grad()
def write_weight(layer: nn.Module | nn.Parameter, weight: Tensor) -> None:
    """Make a layer compute with a weight: an adapter's B becomes zero, the layer below it gets all.

    Args:
        layer: From `weights_by_name`.
        weight: In the shape that `weight_of` gives.
    """
    own, flipped = _frozen_part(layer)
    own.copy_(weight.T if flipped else weight)
    if isinstance(layer, nn.Module) and is_adapted(layer):
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

    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    with ExitStack() as stack:
        for module, was_training in modes:
            stack.callback(setattr, module, "training", was_training)
        for name, layer in layers.items():
            stack.callback(layer.register_forward_pre_hook(watch(name)).remove)
        for batch in batches:
            mask[:] = [batch["attention_mask"].bool().reshape(-1)] if "attention_mask" in batch else []
            model(**{name: tensor for name, tensor in batch.items() if name != "labels"})


def _frozen_part(layer: nn.Module | nn.Parameter) -> tuple[Tensor, bool]:
    """The parameter that a weight is stored in, and whether it is stored as ``(inputs, outputs)``."""
    if isinstance(layer, nn.Parameter):
        return layer, False
    own: Any = layer.base_layer if is_adapted(layer) else layer
    return own.weight, is_transposed(own)
