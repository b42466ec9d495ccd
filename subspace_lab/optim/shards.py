"""How parameters lie over processes: whole, unless torch has distributed them. Nothing is done for those that are.

Legend: G oriented gradient (m, n).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from subspace_lab.optim.orientation import side_for_rule
from subspace_lab.optim.whole import WHOLE, Whole, is_distributed, local

Shape = tuple[int, ...]


def lies_of(p: Tensor, group: dict[str, Any]) -> Whole:
    """How the matrices of a parameter lie.

    Args:
        p: Parameter.
        group: With ``side`` and ``splits``.

    Returns:
        The same for all of its matrices.
    """
    if not is_distributed(p):
        return WHOLE
    from subspace_lab.optim.sharded import shards_of

    return shards_of(p, side_of(p, group), group["splits"])


def side_of(p: Tensor, group: dict[str, Any]) -> str:
    """The side that a parameter is projected from: the group's, and where that is ``"sharded"`` the one it means.

    Args:
        p: Parameter.
        group: With ``side``, ``splits`` and, if it has one, ``rule``.

    Returns:
        ``"auto"``, ``"left"`` or ``"right"``.
    """
    side = str(group["side"])
    if side == "sharded" and is_distributed(p):
        from subspace_lab.optim.sharded import sharded_side

        side = sharded_side(p, group["splits"])
    return side_for_rule("auto" if side == "sharded" else side, group.get("rule"), tuple(p.shape), group["splits"])


def refuse_unknown(p: Tensor, name: str) -> None:
    """Refuse a parameter that is distributed in a way that is not known here, by one line; see `check_distributed`."""
    if getattr(p, "_fsdp_flattened", False):
        raise ValueError(
            f"{name}: it is part of a model that FSDP1 (FullyShardedDataParallel) has flattened, where no matrix is "
            "left; shard the model by torch.distributed.fsdp.fully_shard (FSDP2)"
        )
    if is_distributed(p):
        from subspace_lab.optim.sharded import check_distributed

        check_distributed(p, name)
        _check_backends(p, name)


def _check_backends(p: Any, name: str) -> None:
    """Refuse a parameter whose processes cannot exchange what is where it lies, as nccl what FSDP2 has offloaded."""
    from torch import distributed

    device = local(p).device.type
    for dim in range(p.device_mesh.ndim):
        if p.device_mesh.size(dim) == 1:
            continue
        known = distributed.get_backend_config(p.device_mesh.get_group(dim))
        if device not in {one.partition(":")[0] for one in known.split(",")} | {"meta"}:
            raise ValueError(
                f"{name}: it lies on the {device}, and its processes exchange {known} only; where FSDP2 offloads "
                "parameters to the CPU, begin with init_process_group('cpu:gloo,cuda:nccl')"
            )


def kept_for(p: Tensor, key: str, shape: Shape, dtype: torch.dtype, lies: Whole | None) -> Tensor:
    """Zeros for the state of a parameter; of a distributed one the part that this process holds, as a DTensor.

    Args:
        p: Parameter.
        key: Of the state.
        shape: Of the whole.
        dtype: Its dtype.
        lies: How the matrices of the parameter lie; None if the state lies as the parameter does.

    Returns:
        The tensor.
    """
    part = torch.zeros(kept_shape(p, key, shape, lies), dtype=dtype, device=local(p).device)
    if not is_distributed(p):
        return part
    from subspace_lab.optim.sharded import distributed_tensor

    return distributed_tensor(part, shape, *_state_lies(p, key, lies))


def kept_shape(p: Tensor, key: str, shape: Shape, lies: Whole | None) -> Shape:
    """Shape of the part that this process holds of a tensor of the state of a parameter; arguments as in `kept_for`."""
    if not is_distributed(p):
        return shape
    from subspace_lab.optim.sharded import own_shape

    return own_shape(shape, *_state_lies(p, key, lies))


def refuse_elsewhere(p: Tensor, key: str, value: Tensor) -> None:
    """Refuse a tensor of a saved state that is distributed over other processes than its parameter.

    Args:
        p: Parameter.
        key: Of the state.
        value: Whole, on every process, or a DTensor.

    Raises:
        ValueError: If the value is a DTensor on another mesh than the parameter, or the parameter is none.
    """
    if not is_distributed(value):
        return
    if not is_distributed(p):
        raise ValueError(
            f"{key} is distributed over {value.device_mesh}, and the parameter is not: load full states, "  # type: ignore[attr-defined]
            "get_optimizer_state_dict(..., options=StateDictOptions(full_state_dict=True)), or by distributed "
            "checkpoints"
        )
    if value.device_mesh != p.device_mesh:  # type: ignore[attr-defined]
        raise ValueError(
            f"{key} is distributed over {value.device_mesh}, expected {p.device_mesh}: load it by a "  # type: ignore[attr-defined]
            "distributed checkpoint, which reshards"
        )


def as_distributed(p: Tensor, key: str, value: Tensor, lies: Whole | None) -> Tensor:
    """A tensor of a saved state as it lies in the state of a distributed parameter.

    Args:
        p: Parameter, a DTensor.
        key: Of the state.
        value: Whole, on every process, or a DTensor on the same mesh; see `refuse_elsewhere`.
        lies: As in `kept_for`.

    Returns:
        A new tensor.
    """
    from subspace_lab.optim.sharded import distributed_tensor, own_part

    mesh, placements = _state_lies(p, key, lies)
    if not is_distributed(value):
        return distributed_tensor(own_part(value, mesh, placements).clone(), value.shape, mesh, placements)
    if value.placements == placements:  # type: ignore[attr-defined]
        return value.clone()
    whole = value.full_tensor()  # type: ignore[attr-defined]
    return distributed_tensor(own_part(whole, mesh, placements).clone(), value.shape, mesh, placements)


def _state_lies(p: Any, key: str, lies: Any) -> Any:
    """Mesh and placements of a tensor of the state of a distributed parameter."""
    return p.device_mesh, (p.placements if lies is None else lies.placements(key))


def offset_of(p: Any) -> Shape:
    """Where the part of a parameter that this process holds begins; empty where that is at the beginning."""
    if not is_distributed(p):
        return ()
    from subspace_lab.optim.sharded import own_offset

    offset = own_offset(p.shape, p.device_mesh, p.placements)
    return offset if any(offset) else ()


def lying(p: Any) -> object:
    """What parameters have in common that the same processes hold the parts of; None of those that are whole."""
    if not is_distributed(p):
        return None
    return id(p.device_mesh), tuple(placement.is_replicate() for placement in p.placements)


def lies_elsewhere(p: Any) -> bool:
    """Whether the gradient of a parameter lies otherwise than it: a step of tensor parallel may leave sums."""
    if not is_distributed(p) or not is_distributed(p.grad):
        return False
    return bool(p.grad.placements != p.placements or p.grad.device_mesh != p.device_mesh)


def same_placement(p: Any) -> Tensor | None:
    """The gradient of a parameter, lying as the parameter does; all processes that have parts of it take part.

    Args:
        p: Parameter.

    Returns:
        The gradient.
    """
    return p.grad.redistribute(p.device_mesh, p.placements) if lies_elsewhere(p) else p.grad  # type: ignore[no-any-return]


def everywhere(flag: Tensor | bool, parameters: Iterable[Tensor]) -> bool:
    """Whether something is true on all processes that share some of the parameters: one decision for all.

    Args:
        flag: Whether it is true on this one.
        parameters: Some of which may be distributed; the same on all processes.

    Returns:
        The flag itself where nothing is distributed.
    """
    parameters = list(parameters)
    groups = process_groups(parameters)
    bad = ~flag if isinstance(flag, Tensor) else not flag
    return not _largest([bad], parameters, groups) if groups else bool(flag)


def one_decision(
    flag: Tensor | bool, parameters: Sequence[Tensor], has_gradient: Callable[[Tensor], bool]
) -> tuple[bool, Tensor | None]:
    """`everywhere`, by an exchange that also says whether all processes have gradients of the same parameters.

    Where they have not, what follows would wait for ever for the others.

    Args:
        flag: Whether it is true on this one.
        parameters: All of an optimizer, the same on all processes but for those that are not distributed.
        has_gradient: Of a parameter.

    Returns:
        The flag, and a parameter that has a gradient on some of its processes only.
    """
    parts = _by_groups(parameters)
    if not parts:
        return bool(flag), None
    bad: Tensor | bool = ~flag if isinstance(flag, Tensor) else not flag
    votes = []
    for groups, members in parts:
        token = hash(tuple(map(has_gradient, members))) % 2**62
        votes.append(_largest([bad, token, -token], members, groups))
        bad = votes[-1][0]
    for (groups, members), (_, largest, smallest) in zip(parts, torch.stack(votes).tolist(), strict=True):
        if largest != -smallest:
            present = [has_gradient(p) for p in members]
            seen = _largest([*present, *(not x for x in present)], members, groups).tolist()
            return False, next(p for p, one, no in zip(members, seen, seen[len(members) :], strict=False) if one and no)
    return not bool(bad), None


def differing(settings: Mapping[str, object], parameters: Sequence[Tensor]) -> list[str]:
    """Names of the settings that are not the same on all processes that share some of the parameters.

    Args:
        settings: By the same names on all processes.
        parameters: Some of which may be distributed.

    Returns:
        Names; none where nothing is distributed.
    """
    digests = [hashlib.sha256(repr(value).encode()).digest() for value in settings.values()]
    own = [int.from_bytes(digest[:7]) for digest in digests]
    for groups, members in _by_groups(parameters):
        seen = _largest([*own, *(-x for x in own)], members, groups).tolist()
        found = [n for n, one, no in zip(settings, seen, seen[len(own) :], strict=False) if one != -no]
        if found:
            return found
    return []


def _by_groups(parameters: Iterable[Tensor]) -> list[tuple[list[Any], list[Tensor]]]:
    """Distributed parameters by the groups along all dimensions of their mesh, in the same order on each process."""
    found: dict[tuple[str, ...], tuple[list[Any], list[Tensor]]] = {}
    for p in parameters:
        if is_distributed(p):
            groups = process_groups([p])
            found.setdefault(tuple(group.group_name for group in groups), (groups, []))[1].append(p)
    return list(found.values())


def largest_anywhere(number: int, parameters: Iterable[Tensor]) -> int:
    """The largest of a whole number on all processes that share some of the parameters."""
    parameters = list(parameters)
    groups = process_groups(parameters)
    return int(_largest([number], parameters, groups)) if groups else number


def _largest(numbers: Sequence[int | Tensor], parameters: Iterable[Tensor], groups: Iterable[Any]) -> Tensor:
    """Whole numbers, each the largest that a process of the groups has."""
    from torch import distributed

    device = next(local(p).device for p in parameters if is_distributed(p))
    known = torch.tensor([0 if isinstance(x, Tensor) else x for x in numbers], dtype=torch.int64)
    votes = known.to(device, non_blocking=True)  # the host waits for nothing here
    for vote, x in zip(votes, numbers, strict=True):
        if isinstance(x, Tensor):
            vote.copy_(x, non_blocking=True)
    for group in groups:
        distributed.all_reduce(votes, distributed.ReduceOp.MAX, group=group)
    return votes


def sum_over(p: Tensor, number: float) -> float:
    """The sum of a number over the processes that hold other entries of a parameter."""
    return _reduced(p, number, "SUM")


def max_over(p: Tensor, number: float) -> float:
    """The largest of a number over the processes that hold other entries of a parameter."""
    return _reduced(p, number, "MAX")


def norm_over(p: Tensor, norm: float) -> float:
    """The norm of all entries of a parameter, of that of the entries that are here."""
    if not is_distributed(p):
        return norm
    square = _reduced(p, norm * norm, "SUM")
    if 0 < square < math.inf or math.isnan(square):
        return math.sqrt(square)
    largest = max_over(p, norm)
    return largest if largest in {0, math.inf} else largest * math.sqrt(_reduced(p, (norm / largest) ** 2, "SUM"))


def _reduced(p: Any, number: float, operation: str) -> float:
    if not is_distributed(p):
        return number
    from torch import distributed

    total = torch.tensor(number, dtype=torch.float64, device=local(p).device)
    for dim, placement in enumerate(p.placements):
        if not placement.is_replicate() and p.device_mesh.size(dim) > 1:
            distributed.all_reduce(total, getattr(distributed.ReduceOp, operation), group=p.device_mesh.get_group(dim))
    return float(total)


def process_groups(parameters: Iterable[Tensor]) -> list[Any]:
    """The groups of processes along all dimensions of the meshes of some parameters, in the same order on each."""
    meshes = {id(mesh): mesh for p in parameters if is_distributed(p) for mesh in (p.device_mesh,)}  # type: ignore[attr-defined]
    found: dict[str, Any] = {}
    for mesh in meshes.values():
        for dim in range(mesh.ndim):
            if mesh.size(dim) > 1:
                group = mesh.get_group(dim)
                found[group.group_name] = group
    return list(found.values())
