"""The layer table: which parameters of a model are captured, and what is known of each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from typing import Any, Literal

from torch import Tensor, nn

from subspace_lab._checks import check_choice, check_module
from subspace_lab._kinds import kinds_of
from subspace_lab._names import names_of
from subspace_lab._stacks import num_matrices
from subspace_lab._text import nearest_to_pattern
from subspace_lab.capture.naming import depth_of, residual_side
from subspace_lab.numerics import Side, default_side


@dataclass(frozen=True, eq=False)
class Layer:
    """One captured parameter.

    The parameter is looked up by module and attribute whenever it is needed, since sharding puts new parameter objects
    into the old modules.

    Attributes:
        name: Canonical parameter name, unique in the model.
        module: The module that holds the parameter.
        attribute: The parameter's name in that module.
        depth: Block index, -1 outside of blocks.
        kind: Name of the module, with as much of its parents as tells it from others: q_proj, ..., mlp.c_proj.
        shape: The parameter's own shape, at least two dimensions; of a matrix of a stack, the matrix'.
        side: The side of the subspace.
        residual_side: The side in the residual stream, None where it is not known.
        whole: The parameter's own shape.
        index: Which matrix of a parameter that is a stack of them, as experts in one tensor are; None of all others.
    """

    name: str
    module: nn.Module
    attribute: str
    depth: int
    kind: str
    shape: tuple[int, ...]
    side: Side
    residual_side: Side | None
    whole: tuple[int, ...]
    index: int | None

    @property
    def rows(self) -> int:
        """Rows of the gradient as a matrix: the first dimension."""
        return self.shape[0]

    @property
    def cols(self) -> int:
        """Columns of the gradient as a matrix: all other dimensions multiplied."""
        return prod(self.shape[1:])

    @property
    def parameter(self) -> Tensor:
        """The parameter as it is in its module now."""
        parameter: Tensor = getattr(self.module, self.attribute)
        return parameter

    def part_of(self, whole: Tensor) -> Tensor:
        """The layer's part of a dense tensor of the shape `whole`; a view where memory allows."""
        return whole if self.index is None else whole.reshape(-1, *self.shape)[self.index]

    def row(self) -> dict[str, Any]:
        """The row of the layer table, JSON-ready."""
        return {
            "name": self.name,
            "depth": self.depth,
            "kind": self.kind,
            "rows": self.rows,
            "cols": self.cols,
            "side": self.side,
            "shape": list(self.shape),
            "residual_side": self.residual_side,
        }


def select_layers(
    model: nn.Module, patterns: Sequence[str] | None = None, side: Literal["auto", "left", "right"] = "auto"
) -> list[Layer]:
    """The layer table of a model.

    A parameter can be captured if it is trainable and real and has two dimensions or more; convolutions are flattened
    to (first dimension, all others). Experts in one tensor are a layer each, ``experts.up_proj[3]``. Tied weights are
    one layer, under the first of their names.

    Args:
        model: The model, wrapped or not.
        patterns: Globs on canonical names; None takes every parameter that can be captured, but those of one row
            or column, whose only direction holds everything.
        side: ``"auto"`` for the shorter side of each layer, or one side for all.

    Returns:
        The layers in the order of the model.

    Raises:
        ValueError: If there is nothing to capture, a pattern matches nothing, or an argument is wrong.
    """
    check_module(model)
    check_choice("side", side, ("auto", "left", "right"))
    layers, others = _sort(model, side)
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no trainable parameter of two or more dimensions: nothing to capture"
        )
    if patterns is None:
        several = [layer for layer in layers if min(layer.rows, layer.cols) > 1]
        if not several:
            raise ValueError(
                f"{type(model).__name__} has only matrices of one row or column, where one direction holds everything; "
                f"name them by layers= to capture them: {', '.join(layer.name for layer in layers[:3])}"
            )
        return several
    if not patterns:
        raise ValueError("layers is empty; leave it out to capture every weight matrix")
    for pattern in patterns:
        _check_matches(pattern, layers, others, type(model).__name__)
    return [layer for layer in layers if any(matches(layer.name, pattern) for pattern in patterns)]


def _sort(model: nn.Module, side: Literal["auto", "left", "right"]) -> tuple[list[Layer], dict[str, str]]:
    """The parameters that can be captured, and the names of all others with the reason why not."""
    found = list(_parameters(model))
    first: dict[int, str] = {}
    for raw, module, attribute in found:
        first.setdefault(id(getattr(module, attribute)), raw)
    names, kinds = names_of(model, first.values()), kinds_of(model)
    layers: list[Layer] = []
    others: dict[str, str] = {}
    for raw, module, attribute in found:
        parameter = getattr(module, attribute)
        owner = first[id(parameter)]
        if owner != raw:
            others[raw] = f"tied to {names[owner]}"
        elif reason := _obstacle(parameter):
            others[names[raw]] = reason
        else:
            layers += _layers(names[raw], kinds[names[raw]], module, attribute, side)
    return layers, others


def _parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    for prefix, module in model.named_modules(remove_duplicate=False):
        for attribute, _ in module.named_parameters(recurse=False, remove_duplicate=False):
            yield f"{prefix}.{attribute}" if prefix else attribute, module, attribute


def _obstacle(parameter: Tensor) -> str | None:
    if not parameter.requires_grad:
        return "frozen"
    if not parameter.is_floating_point():
        return f"of type {parameter.dtype}"
    if parameter.ndim < 2 or parameter.numel() == 0:
        return f"of shape {tuple(parameter.shape)}"
    return None


def _layers(
    name: str, kind: str, module: nn.Module, attribute: str, side: Literal["auto", "left", "right"]
) -> Iterator[Layer]:
    """The layers that a parameter is: one, or as many as there are matrices in a stack."""
    shape = whole = tuple(getattr(module, attribute).shape)
    number = num_matrices(name, whole, [module])
    if number > 1:
        shape = shape[1:] if len(shape) == 3 else (shape[0] // number, shape[1])
    for index in range(number):
        yield Layer(
            name=name if number == 1 else f"{name}[{index}]",
            module=module,
            attribute=attribute,
            depth=depth_of(name),
            kind=kind,
            shape=shape,
            side=default_side(shape[0], prod(shape[1:])) if side == "auto" else side,
            residual_side=residual_side(kind, attribute, module, len(shape)),
            whole=whole,
            index=None if number == 1 else index,
        )


def matches(name: str, pattern: str) -> bool:
    """Whether a glob, or the name itself, names a parameter; that of a stack names all of its matrices."""
    stack = re.sub(r"\[\d+\]$", "", name)
    return pattern in {name, stack} or fnmatchcase(name, pattern) or fnmatchcase(stack, pattern)


def _check_matches(pattern: str, layers: Sequence[Layer], others: dict[str, str], model_name: str) -> None:
    if any(matches(layer.name, pattern) for layer in layers):
        return
    hits = [f"{name} ({reason})" for name, reason in others.items() if matches(name, pattern)]
    if hits:
        raise ValueError(
            f"layers: {pattern!r} matches only parameters of {model_name} that cannot be captured: "
            f"{', '.join(hits[:3])}; give a trainable weight matrix"
        )
    near = nearest_to_pattern(pattern, (layer.name for layer in layers))
    raise ValueError(f"layers: {pattern!r} matches no parameter of {model_name}; nearest: {near}")
