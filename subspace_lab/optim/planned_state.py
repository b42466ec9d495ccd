"""Bytes of optimizer states by formula, of everything that is trained: by a method with one rank, or by a plan."""

from __future__ import annotations

import bisect
import glob
import math
from collections.abc import Mapping
from typing import Any

from subspace_lab.optim import memory_report

Shapes = Mapping[str, tuple[int, ...]]
_OF_LAYER = ("rule", "recovery")  # settings of a plan, beside the rank, on which bytes depend


def planned_bytes(shapes: Shapes, plan: Mapping[str, Any], options: Mapping[str, Any] | None = None) -> int:
    """What an optimizer from a plan keeps: of planned layers by their settings, of all others AdamW's two moments.

    Args:
        shapes: Shape of every trainable parameter by name.
        plan: The content of a plan's file; layers that are not among the parameters, which a training refuses, count
            nothing.
        options: Further ones of the optimizer.

    Returns:
        The bytes.
    """
    planned = {layer["layer"]: layer for layer in plan["layers"] if layer["layer"] in shapes}
    others = {name: shape for name, shape in shapes.items() if name not in planned}
    total = 0
    for name, layer in planned.items():
        settings = {key: layer[key] for key in _OF_LAYER if layer.get(key) is not None}
        report = memory_report(
            {**others, name: shapes[name]},
            "SubspaceAdam",
            rank=layer["rank"],
            targets=glob.escape(name),
            **{**(options or {}), **settings},
        )
        total += report.optimizer
        others = {}  # counted once, with the first layer
    return total


def rank_with_bytes(shapes: Shapes, least: int) -> int:
    """The smallest rank of all matrices at which GrassWalk with its defaults keeps so many bytes.

    Args:
        shapes: Shape of every trainable parameter by name.
        least: The bytes that it must keep at least.

    Returns:
        The rank; the largest m where no rank keeps as many.
    """
    largest = max(min(shape[0], math.prod(shape[1:])) for shape in shapes.values() if len(shape) > 1)
    ranks = range(1, largest + 1)
    found = bisect.bisect_left(ranks, least, key=lambda rank: memory_report(shapes, "GrassWalk", rank=rank).optimizer)
    return ranks[min(found, largest - 1)]
