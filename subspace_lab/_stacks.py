"""Which parameters are several matrices: experts that are stored in one tensor."""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import nn

_EXPERTS = re.compile(r"experts?\b|moe\b", re.IGNORECASE)
_COUNTS = ("num_experts", "num_local_experts", "moe_num_experts")


def num_matrices(name: str, shape: tuple[int, ...], holders: Iterable[nn.Module] = ()) -> int:
    """How many matrices a parameter is a stack of.

    (E, rows, cols) is a stack if the name or the class of its module speaks of experts, or the module has E of them;
    the kernels of convolutions have three dimensions, too, and are one matrix. (E rows, cols) is one in DBRX.

    Args:
        name: Canonical parameter name.
        shape: The parameter's.
        holders: The modules that hold it, where there is a model.

    Returns:
        The number, 1 for one matrix or none.

    >>> num_matrices("layers.0.mlp.experts.up", (8, 16, 4)), num_matrices("features.conv.weight", (8, 16, 3))
    (8, 1)
    """
    holders = list(holders)
    if are_convolutions(holders):
        return 1
    three = len(shape) == 3 and shape[0] > 1
    for module in holders:
        counts = [getattr(module, count, None) for count in _COUNTS]
        if three and (shape[0] in counts or "expert" in type(module).__name__.lower()):
            return shape[0]
        if len(shape) == 2 and counts[-1] and shape[0] == counts[-1] * getattr(module, "ffn_hidden_size", 0):
            return int(counts[-1])
    return shape[0] if three and _EXPERTS.search(name) else 1


def are_convolutions(modules: Iterable[nn.Module]) -> bool:
    """Whether one of the modules is a convolution, transposed or not."""
    return any(isinstance(module, nn.modules.conv._ConvNd) for module in modules)
