"""How a model is spread over the processes of a training: whole in each (DDP), or in shards (FSDP2)."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from subspace_lab._checks import check_choice
from subspace_lab.training.config import Sharding, TrainConfig
from subspace_lab.training.workers import Workers

SHARDING = "SUBSPACE_LAB_SHARDING"  # beside the variables of torchrun, by whoever begins it; a setting goes first


def settle_sharding(config: TrainConfig, workers: Workers) -> TrainConfig:
    """The configuration with its ``sharding`` filled in.

    Args:
        config: Any configuration.
        workers: The processes that train.

    Returns:
        The configuration; of several processes that say nothing it is ``ddp``, of one it stays open.

    Raises:
        ValueError: If there is one process, which has nothing to shard, or the processes make no mesh for ``hsdp``.
    """
    if workers.size == 1:
        if config.sharding is not None:
            raise ValueError(
                f"sharding={config.sharding!r} has no effect on one process; begin several by torchrun "
                "--nproc-per-node, or leave it out"
            )
        return config
    if sharding_of(config, workers) == "hsdp":
        mesh_shape("hsdp", workers)
    return dataclasses.replace(config, sharding=sharding_of(config, workers))


def sharding_of(config: TrainConfig, workers: Workers) -> Sharding | None:
    """How these processes share a model: as the configuration says, else as who began them says, else by ``ddp``.

    Args:
        config: Any configuration, perhaps of a run that another number of processes began.
        workers: The processes that train.

    Returns:
        ``ddp``, ``fsdp`` or ``hsdp``; None for one process.
    """
    if workers.size == 1:
        return None
    return config.sharding or asked_by_environment() or "ddp"


def asked_by_environment() -> Sharding | None:
    """The sharding that whoever began these processes asks for; ValueError if there is no such sharding."""
    if (found := os.environ.get(SHARDING)) is not None:
        check_choice(SHARDING, found, get_args(Sharding))
    return cast("Sharding | None", found)


def check_shares(config: TrainConfig, processes: int | None) -> None:
    """ValueError if the micro-batches of a resolved configuration cannot be shared by so many processes, None for 1."""
    assert config.batch_size
    share_of(config.batch_size, processes or 1)


def share_of(batch_size: int, processes: int) -> int:
    """The rows of a micro-batch that each process takes; ValueError if they cannot be shared evenly."""
    if batch_size % processes:
        raise ValueError(f"batch_size={batch_size} is not a multiple of the {processes} processes")
    return batch_size // processes


def mesh_shape(sharding: str, workers: Workers) -> tuple[int, ...]:
    """The shape of the mesh over which a model is sharded.

    Args:
        sharding: ``fsdp``: over all processes; ``hsdp``: over those of a node, with a copy on each node.
        workers: The processes that train.

    Returns:
        Processes, or nodes and processes of a node.

    Raises:
        ValueError: If there is one node, or one process on each.
    """
    if sharding == "fsdp":
        return (workers.size,)
    each = int(os.environ.get("LOCAL_WORLD_SIZE", str(workers.size)))
    if each == 1 or each == workers.size or workers.size % each:
        where = f"{workers.size} processes, {each} on this node"
        raise ValueError(
            f"sharding='hsdp' shards over the processes of a node and copies over nodes, here are {where}; "
            f"use sharding={'ddp' if each == 1 else 'fsdp'!r}"
        )
    return workers.size // each, each


def spread(model: nn.Module, sharding: str | None, workers: Workers) -> None:
    """Shard a model in place: each of its blocks, then what is left; nothing is done for ``ddp`` or one process.

    Args:
        model: On its device, the same in every process.
        sharding: A settled ``sharding``.
        workers: The processes that train.

    Raises:
        ValueError: In all of them, if ``hsdp`` would take processes of several nodes for those of one.
    """
    if workers.size == 1 or sharding in {None, "ddp"}:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    assert sharding is not None
    shape = mesh_shape(sharding, workers)
    if sharding == "hsdp":
        _check_neighbours(shape[1], workers)
    mesh = init_device_mesh(workers.device.type, shape, mesh_dim_names=("nodes", "shards")[-len(shape) :])
    for block in blocks_of(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _check_neighbours(each: int, workers: Workers) -> None:
    """Refuse processes that are dealt out over nodes in turns; one decision for all of them."""
    expected = workers.rank % each
    (elsewhere,) = workers.sums([float(int(os.environ.get("LOCAL_RANK", str(expected))) != expected)])
    if elsewhere:
        raise ValueError(
            f"sharding='hsdp' takes {each} processes in a row for those of a node, and the LOCAL_RANK of "
            f"{elsewhere:.0f} of {workers.size} says otherwise; number processes node by node (torchrun does, srun "
            "with --distribution=block), or use sharding='fsdp'"
        )


def blocks_of(model: nn.Module) -> Iterator[nn.Module]:
    """The blocks of a model: what is in its outermost lists of modules."""
    for child in model.children():
        if isinstance(child, nn.ModuleList):
            yield from (block for block in child if any(True for _ in block.parameters()))
        else:
            yield from blocks_of(child)


def parallel(model: nn.Module, sharding: str | None) -> nn.Module:
    """What is called in place of a model that was spread: itself, or the wrapper that exchanges its gradients."""
    return DistributedDataParallel(model) if sharding == "ddp" else model


def is_sharded(model: nn.Module) -> bool:
    """Whether parameters of a model are in shards, so that all processes take part in whatever needs one whole."""
    return any(hasattr(parameter, "device_mesh") for parameter in model.parameters())


def gathered(tensor: Tensor) -> Tensor:
    """A tensor whole in every process; all of them call this where it is sharded."""
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole


def replicated_like(tensor: Tensor, like: Any) -> Tensor:
    """A tensor that all processes have, as one of the same processes as a sharded one."""
    if not hasattr(like, "device_mesh"):
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    mesh = like.device_mesh
    return DTensor.from_local(tensor, mesh, [Replicate()] * mesh.ndim, run_check=False)


def sharded_like(tensor: Tensor, like: Any, placements: Sequence[Any] | None = None) -> Tensor:
    """A whole tensor, there in every process, as a sharded one is: each process takes its part, nothing is sent.

    Args:
        tensor: The whole tensor.
        like: A tensor, sharded or not.
        placements: How it is to be sharded over the mesh of `like`; as that one by default.

    Returns:
        The tensor as it is, where `like` is not sharded.
    """
    if not hasattr(like, "device_mesh"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh = like.device_mesh
    device = torch.device(mesh.device_type)
    return distribute_tensor(tensor.to(device), mesh, placements or like.placements, src_data_rank=None)
