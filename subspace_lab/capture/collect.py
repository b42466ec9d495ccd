"""The tensors and the findings of one captured step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from subspace_lab.capture.gradients import dense_gradient
from subspace_lab.capture.layers import Layer
from subspace_lab.capture.reductions import Reduction, full_precision


@dataclass
class Collected:
    """What was kept of the gradients of one step.

    Attributes:
        tensors: CPU tensors by ``part:layer``.
        nonfinite: Layer -> its entries that are NaN or Inf; of such a gradient nothing is kept.
        missing: Layers that had no gradient.
        dtypes: Of the gradients.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    nonfinite: dict[str, int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    dtypes: set[str] = field(default_factory=set)

    @property
    def layers(self) -> set[str]:
        """The names of the layers that had a gradient."""
        return {name.partition(":")[2] for name in self.tensors} | self.nonfinite.keys()

    def add(self, other: Collected) -> None:
        """Take in what was kept of the gradients of other layers in the same step."""
        self.tensors |= other.tensors
        self.nonfinite |= other.nonfinite
        self.missing += other.missing
        self.dtypes |= other.dtypes


def collect(layers: Sequence[Layer], reduce: Reduction | None, scale: float | None) -> Collected:
    """Read and reduce the gradients of all layers, one after the other, where none is sharded over processes.

    Args:
        layers: The layer table.
        reduce: The reduction; None in processes that do not write.
        scale: The loss scale that is still in the gradients, None for none.

    Returns:
        What was kept.
    """
    collected = Collected()
    for layer in layers:
        gradient = dense_gradient(layer, scale)
        if gradient is None:
            collected.missing.append(layer.name)
        elif reduce is not None:
            add_gradient(collected, layer, gradient, reduce)
    return collected


def add_gradient(collected: Collected, layer: Layer, gradient: Tensor, reduce: Reduction) -> None:
    """Reduce the gradient of a layer, unless it has entries that are not finite.

    Args:
        collected: What was kept is added to it.
        layer: The layer.
        gradient: A dense tensor of its shape.
        reduce: The reduction.
    """
    collected.dtypes.add(str(gradient.dtype).removeprefix("torch."))
    num_bad, kept = num_nonfinite(gradient), {}
    if not num_bad:
        with full_precision(gradient.device.type):
            kept = {part: tensor.cpu().contiguous() for part, tensor in reduce(gradient, layer.side).items()}
        num_bad = sum(map(num_nonfinite, kept.values()))  # squares of very large entries overflow
    if num_bad:
        collected.nonfinite[layer.name] = num_bad
    else:
        collected.tensors.update({f"{part}:{layer.name}": tensor for part, tensor in kept.items()})


def num_nonfinite(tensor: Tensor) -> int:
    """Entries that are NaN or Inf; both survive a sum, which is the cheapest pass over a tensor that has neither."""
    total = tensor.sum(dtype=torch.float32 if tensor.dtype.itemsize < 4 else tensor.dtype)
    return 0 if bool(total.isfinite()) else tensor.numel() - int(tensor.isfinite().sum())
