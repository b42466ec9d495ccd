"""The captured layers as they are now: a training may replace, freeze and unfreeze parameters of its model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from torch import Tensor, nn

from subspace_lab._names import named_parameters
from subspace_lab.capture.layers import Layer, matches, select_layers


@dataclasses.dataclass(frozen=True)
class Present:
    """What has become of the layers.

    Attributes:
        layers: Those that are there and trained, each with the module that holds it now.
        absent: Of the others, name -> what is the matter.
        new: Parameters that would be layers if the capture were made now.
    """

    layers: list[Layer]
    absent: dict[str, str]
    new: frozenset[str]


def present(
    model: nn.Module, table: Sequence[Layer], patterns: Sequence[str] | None, side: Literal["auto", "left", "right"]
) -> Present:
    """Look up the layers of a table in the model as it is now.

    Args:
        model: The watched model, wrapped or not.
        table: The layers when the capture was made.
        patterns: The globs that chose them.
        side: The side that was asked for.

    Returns:
        The layers and the changes.
    """
    try:
        now = {layer.name: layer for layer in select_layers(model, patterns, side)}
    except ValueError:  # nothing is trained, or nothing that matches
        now = {}
    there = [layer for layer in table if layer.name in now and now[layer.name].whole == layer.whole]
    new = frozenset(now.keys() - {layer.name for layer in table})
    absent = {}
    if len(there) < len(table):
        parameters, found = named_parameters(model), {layer.name for layer in there}
        absent = {x.name: _matter(x, parameters.get(_parameter_of(x))) for x in table if x.name not in found}
    current = [dataclasses.replace(x, module=now[x.name].module, attribute=now[x.name].attribute) for x in there]
    return Present(current, absent, new)


def changes(absent: Mapping[str, str], new: Iterable[str]) -> Iterator[tuple[str, str]]:
    """What is not as it was when the capture was made, in words.

    Args:
        absent: As in `Present`.
        new: As in `Present`.

    Yields:
        What is the matter, and a line about it.
    """
    for matter in sorted(set(absent.values())):
        names = [name for name, its in absent.items() if its == matter]
        yield matter, f"{shown(names)} {matter}; it is recorded as missing"
    if names := sorted(new):
        yield (
            "new",
            (
                f"{shown(names)} is trained now and was not when the capture was made; it is not captured: "
                "make a capture when all layers are trainable"
            ),
        )


def left_out(model: nn.Module, patterns: Sequence[str] | None) -> str | None:
    """A line for the trained matrices that are of complex numbers, None where there are none.

    Args:
        model: The watched model, wrapped or not.
        patterns: The globs that choose layers; None for all.

    Returns:
        The line.
    """
    names = [
        name
        for name, p in named_parameters(model, trainable=True).items()
        if p.is_complex() and p.ndim >= 2 and (patterns is None or any(matches(name, pattern) for pattern in patterns))
    ]
    if not names:
        return None
    return f"not captured: {shown(names)}, of complex numbers; real matrices are (torch.view_as_real makes such)"


def shown(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are.

    Args:
        names: At least one.

    Returns:
        The words, without what would steer a terminal.

    >>> shown(["a", "b", "c"])
    'a (and 2 more)'
    """
    first = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in names[0])
    return first if len(names) == 1 else f"{first} (and {len(names) - 1} more)"


def _parameter_of(layer: Layer) -> str:
    """The name of the parameter that a layer is, or is a matrix of."""
    return layer.name if layer.index is None else layer.name.removesuffix(f"[{layer.index}]")


def _matter(layer: Layer, now: Tensor | None) -> str:
    if now is None:
        return "is not a parameter of the model any more (replaced, parametrized or tied to another one)"
    if tuple(now.shape) != layer.whole:
        return (
            f"has shape {tuple(now.shape)}, its parameter had {layer.whole} "
            "(shard the model with torch.distributed.fsdp.fully_shard, whose gradients can be captured)"
        )
    return "is frozen now" if not now.requires_grad else "is not a layer any more"
