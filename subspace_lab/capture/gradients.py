"""Reading gradients as training leaves them: sharded over processes, sparse, or multiplied by a loss scale."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from subspace_lab.capture.layers import Layer

_SMALL = 1e-15  # squares of numbers below it underflow, as those of large ones overflow


def dense_gradient(layer: Layer, scale: float | None) -> Tensor | None:
    """The whole gradient of a layer that is not sharded over processes, on its own device.

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
    gradient = gradient.detach()
    if gradient.layout != torch.strided:
        gradient = gradient.to_dense()
    if tuple(gradient.shape) != layer.whole:
        raise ValueError(
            f"the gradient of {layer.name} has shape {tuple(gradient.shape)}, its parameter had {layer.whole}; "
            "shard the model with torch.distributed.fsdp.fully_shard, whose gradients can be captured"
        )
    gradient = layer.part_of(gradient)
    return gradient if scale is None else gradient / scale


def global_norm(parameters: Iterable[Tensor], scale: float | None) -> float | None:
    """The Frobenius norm over the gradients of all parameters, in float32 or better.

    With sharded parameters all processes must call this. A gradient of unfinished sums that one of its processes lacks
    has no norm, and is left out.

    Args:
        parameters: All parameters of the model.
        scale: The loss scale that is still in the gradients, None for none.

    Returns:
        The norm, or None if no parameter has a gradient.
    """
    parameters = list(parameters)
    meshes = dict.fromkeys(p.device_mesh for p in parameters if hasattr(p, "device_mesh"))
    lacking = _without_sums([*meshes], parameters)
    gradients = [p.grad.detach() for p in parameters if p.grad is not None and id(p) not in lacking]
    if not gradients and not meshes:
        return None
    total = _total(gradients, [*meshes], torch.float32)
    if (math.isinf(total) or total < _SMALL) and all(gradient.device.type != "mps" for gradient in gradients):
        total = _total(gradients, [*meshes], torch.float64)
    return total / (scale or 1.0) if gradients else None


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


def _total(gradients: Sequence[Tensor], meshes: Sequence[Any], least: torch.dtype) -> float:
    """The norm over all gradients; the squares of those that are sharded are summed once for each mesh."""
    norms: dict[Any, list[Tensor]] = {mesh: [] for mesh in (None, *meshes)}
    for gradient in gradients:
        mesh = getattr(gradient, "device_mesh", None)
        norms.setdefault(mesh, []).append(_norm(gradient, least) if mesh is None else _share_of_norm(gradient, least))
    total = 0.0
    for mesh, parts in norms.items():
        square = torch.zeros((), dtype=torch.float64)
        if parts:
            square = torch.stack([part.to(parts[0]) for part in parts]).cpu().double().square().sum()
        if mesh is not None:
            square = square.to(mesh.device_type)
            for dim in range(mesh.ndim):
                torch.distributed.all_reduce(square, group=mesh.get_group(dim))
        total += float(square)
    return math.sqrt(total)


def _without_sums(meshes: Sequence[Any], parameters: Sequence[Any]) -> set[int]:
    """The parameters with a gradient of unfinished sums here, while another process has none to add, by `id`."""
    found: set[int] = set()
    for mesh in meshes:
        its = [p for p in parameters if getattr(p, "device_mesh", None) == mesh]
        own = [any(placement.is_partial() for placement in getattr(p.grad, "placements", ())) for p in its]
        everywhere = torch.tensor(own, dtype=torch.int32, device=mesh.device_type)
        for dim in range(mesh.ndim):
            torch.distributed.all_reduce(everywhere, torch.distributed.ReduceOp.MIN, group=mesh.get_group(dim))
        found |= {
            id(p) for p, here, all_have in zip(its, own, everywhere.tolist(), strict=True) if here and not all_have
        }
    return found


def _share_of_norm(gradient: Any, least: torch.dtype) -> Tensor:
    """The norm of a shard, so that the squares over all of its mesh add up: one that others hold, too, counts less."""
    from torch.distributed.tensor import Replicate

    mesh, placements = gradient.device_mesh, gradient.placements
    if any(placement.is_partial() for placement in placements):
        placements = [Replicate() if placement.is_partial() else placement for placement in placements]
        gradient = gradient.redistribute(mesh, placements)
    copies = math.prod(mesh.size(dim) for dim, placement in enumerate(placements) if placement.is_replicate())
    return _norm(gradient.to_local(), least) / math.sqrt(copies)


def _norm(gradient: Tensor, least: torch.dtype) -> Tensor:
    if gradient.layout == torch.sparse_coo:
        gradient = gradient.coalesce().values()
    elif gradient.layout != torch.strided:
        gradient = gradient.to_dense()
    values = torch.view_as_real(gradient.resolve_conj()) if gradient.is_complex() else gradient
    dtype = torch.float64 if values.dtype == torch.float64 else least
    norm: Tensor = torch.linalg.vector_norm(values, dtype=dtype)
    return norm


def _gathered(tensor: Tensor) -> Tensor:
    """A DTensor as a plain one, which all of its processes take part in; a plain one as it is."""
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole
