"""Reading gradients as training leaves them: sharded over processes, sparse, or multiplied by a loss scale."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from subspace_lab.capture.layers import Layer

_SMALL = 1e-15  # squares of numbers below it underflow, as those of large ones overflow


def dense_gradient(layer: Layer, scale: float | None) -> Tensor | None:
    """The whole gradient of a layer, on its own device.

    The gradient of a parameter that is sharded over processes is gathered: all of them must call this.

    Args:
        layer: A captured layer.
        scale: The loss scale that is still in the gradient, None for none.

    Returns:
        A dense tensor of the layer's shape, or None where the parameter has no gradient.

    Raises:
        ValueError: If the gradient has another shape than the layer.
    """
    gradient = layer.parameter.grad
    if gradient is None:
        return None
    gradient = _gathered(gradient.detach())
    if gradient.layout != torch.strided:
        gradient = gradient.to_dense()
    if tuple(gradient.shape) != layer.whole:
        raise ValueError(
            f"the gradient of {layer.name} has shape {tuple(gradient.shape)}, its parameter had {layer.whole}; "
            "shard the model with torch.distributed.fsdp.fully_shard, whose gradients can be gathered"
        )
    gradient = layer.part_of(gradient)
    return gradient if scale is None else gradient / scale


def global_norm(parameters: Iterable[Tensor], scale: float | None) -> float | None:
    """The Frobenius norm over the gradients of all parameters, in float32 or better.

    With sharded parameters all processes must call this.

    Args:
        parameters: All parameters of the model.
        scale: The loss scale that is still in the gradients, None for none.

    Returns:
        The norm, or None if no parameter has a gradient.
    """
    gradients = [parameter.grad.detach() for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return None
    total = _total(gradients, torch.float32)
    if (math.isinf(total) or total < _SMALL) and all(gradient.device.type != "mps" for gradient in gradients):
        total = _total(gradients, torch.float64)
    return total / (scale or 1.0)


def whole_number(value: Tensor) -> float:
    """A tensor of one element as a number; of one that is sharded over processes, all of them must call this."""
    return float(_gathered(value.detach()))


def is_writer() -> bool:
    """Whether this process writes the run: the first of a distributed job, or the only one.

    Before the process group is there, the variables that launchers set decide.

    Returns:
        True in exactly one process.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank() == 0
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return True
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK"))


def is_alone() -> bool:
    """Whether no process group says that there is anybody else, or this process is the first of it."""
    return not (torch.distributed.is_available() and torch.distributed.is_initialized()) or (
        torch.distributed.get_rank() == 0
    )


def launcher() -> str:
    """The variables of launchers that `is_writer` looks at, as they are set."""
    names = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "NODE_RANK")
    return ", ".join(f"{name}={os.environ[name]}" for name in names if name in os.environ)


def num_processes() -> int:
    """Processes that train together, 1 without a process group."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    return 1


def _total(gradients: Sequence[Tensor], least: torch.dtype) -> float:
    norms = [_norm(gradient, least) for gradient in gradients]
    return float(torch.linalg.vector_norm(torch.stack([norm.to(norms[0]) for norm in norms])))


def _norm(gradient: Tensor, least: torch.dtype) -> Tensor:
    if gradient.layout == torch.sparse_coo:
        gradient = gradient.coalesce().values()
    elif gradient.layout != torch.strided:
        gradient = gradient.to_dense()
    values = torch.view_as_real(gradient.resolve_conj()) if gradient.is_complex() else gradient
    dtype = torch.float64 if values.dtype == torch.float64 else least
    return _gathered(torch.linalg.vector_norm(values, dtype=dtype))


def _gathered(tensor: Tensor) -> Tensor:
    """A DTensor as a plain one, which all of its processes take part in; a plain one as it is."""
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole
