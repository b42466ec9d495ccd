"""Which parameters a Hessian or a gradient is taken of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from subspace_lab._checks import check_module
from subspace_lab._kinds import kinds_of
from subspace_lab._names import names_of, raw_parameters
from subspace_lab._text import nearest_to_pattern
from subspace_lab.capture.layers import matches
from subspace_lab.capture.naming import depth_of

MODEL = "model"


@dataclass(frozen=True, eq=False)
class Block:
    """Parameters that are taken together, flattened one after the other.

    Attributes:
        name: The parameter's canonical name, or ``"model"``.
        names: Canonical names of its parameters.
        parameters: The parameters.
        depth: Block index in the model, -1 where there is none.
        kind: Name of the parameter's module, or ``"model"``.
    """

    name: str
    names: tuple[str, ...]
    parameters: tuple[Tensor, ...]
    depth: int
    kind: str

    @property
    def size(self) -> int:
        """Its numbers, all in all."""
        return sum(parameter.numel() for parameter in self.parameters)

    @property
    def dtype(self) -> torch.dtype:
        """float64 where all of its parameters are, otherwise float32."""
        double = all(parameter.dtype == torch.float64 for parameter in self.parameters)
        return torch.float64 if double else torch.float32

    def pieces(self, flat: Tensor) -> list[Tensor]:
        """A flat vector (size,) as tensors of the parameters' shapes; views."""
        parts = torch.split(flat, [parameter.numel() for parameter in self.parameters])
        return [part.view(parameter.shape) for part, parameter in zip(parts, self.parameters, strict=True)]


def select_blocks(model: nn.Module, layers: str | Sequence[str] | None) -> list[Block]:
    """The blocks that globs name, or the whole model as one.

    Args:
        model: The model that the loss is computed with.
        layers: Globs on canonical parameter names, each matching parameter is a block of its own, vectors too; None
            takes all trainable parameters as one block.

    Returns:
        The blocks, in the order of the model.

    Raises:
        ValueError: If the model has no trainable parameter, a pattern matches none (the nearest are named), or a
            parameter is complex or, by itself, empty.
    """
    check_module(model)
    raws = {raw: parameter for raw, parameter in raw_parameters(model) if parameter.requires_grad}
    if not raws:
        raise ValueError(f"{type(model).__name__} has no trainable parameter; set requires_grad of those to look at")
    names = names_of(model, raws)
    for raw, parameter in raws.items():
        if parameter.is_complex() and (layers is None or _chosen(names[raw], layers)):
            raise ValueError(
                f"{names[raw]} is complex, second derivatives and noise are measured of real parameters; store it as "
                "torch.view_as_real gives it, freeze it (requires_grad_(False)), or choose other layers"
            )
    if layers is None:
        if not any(parameter.numel() for parameter in raws.values()):
            raise ValueError(f"{MODEL} has no entries in any trainable parameter; there is nothing to measure")
        return [Block(MODEL, tuple(names[raw] for raw in raws), tuple(raws.values()), -1, MODEL)]
    patterns = [layers] if isinstance(layers, str) else list(layers)
    if not patterns:
        raise ValueError("layers is empty; leave it out for the whole model")
    for pattern in patterns:
        if not any(matches(name, pattern) for name in names.values()):
            near = nearest_to_pattern(pattern, names.values())
            raise ValueError(
                f"layers: {pattern!r} matches no trainable parameter of {type(model).__name__}; nearest: {near}"
            )
    wanted = [(raw, name) for raw, name in names.items() if _chosen(name, patterns)]
    if empty := [name for raw, name in wanted if not raws[raw].numel()]:
        raise ValueError(f"{empty[0]} has no entries; choose other layers")
    kinds = kinds_of(model)
    return [Block(name, (name,), (raws[raw],), depth_of(name), kinds[name]) for raw, name in wanted]


def _chosen(name: str, layers: str | Sequence[str]) -> bool:
    return any(matches(name, pattern) for pattern in ([layers] if isinstance(layers, str) else layers))
