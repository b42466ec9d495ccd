"""What a sharded optimizer keeps on a device, and what its own exchange makes the device receive.

Legend: m, n oriented gradient shape; S (m, r) basis; ``A = S^T G`` and O Adam's direction (r, n); d processes that the
states are sharded over; ``c = ceil(n / d)`` columns of each. A parameter is cut along its first dimension, its rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from subspace_lab.optim.apollo import APOLLO
from subspace_lab.optim.base import Group
from subspace_lab.optim.low_rank import LowRankOptimizer
from subspace_lab.optim.matrices import exact_dtype
from subspace_lab.optim.memory import STEP_BYTES, PlannedStates
from subspace_lab.optim.online_subspace_descent import OnlineSubspaceDescent
from subspace_lab.optim.orientation import is_stack, oriented_shape
from subspace_lab.optim.shardings import Cluster, Traffic, cut
from subspace_lab.optim.subspace_adam import SubspaceAdam

_EXACT = {"svd", "golore"}  # rules whose refresh decomposes a whole gradient


@dataclass(frozen=True)
class _Cut:
    """One matrix of a parameter, or several alike, cut for d processes.

    Attributes:
        m: Rows of the oriented gradient.
        n: Columns.
        r: Effective rank.
        along: ``"m"`` or ``"n"``, the side that is cut; None where a process has whole matrices.
        held: How many matrices like this the fullest process has.
        group: Settings.
        of: The parameter's dtype.
    """

    m: int
    n: int
    r: int
    along: str | None
    held: int
    group: Group
    of: torch.dtype


def _cuts(planned: PlannedStates, processes: int, side: str | None) -> Iterator[_Cut]:
    assert issubclass(planned.kind, LowRankOptimizer)
    for name, own in planned.low.items():
        shape, of = planned.trainable[name]
        splits = own["splits"]
        group = own if side is None or processes == 1 else {**own, "side": side}
        m, n = oriented_shape(shape, group["side"], splits)
        rows = shape[1] if is_stack(shape, splits) else shape[0] // splits
        whole = processes == 1 or is_stack(shape, splits)
        along = None if whole else "n" if (rows == n and (rows != m or group["side"] == "right")) else "m"
        held = -(-shape[0] // processes) * splits // shape[0] if is_stack(shape, splits) else splits
        yield _Cut(m, n, planned.kind.effective_rank(m, group), along, held, group, of)


def sharded_bytes(planned: PlannedStates, processes: int, *, side: str | None = None) -> int:
    """Bytes of states and bases on the process that holds most.

    Args:
        planned: The optimizer's states.
        processes: d.
        side: From which side matrices are projected that are cut; None for the group's.

    Returns:
        Bytes.
    """
    full = planned.block_sizes if planned.block else planned.full
    moments = sum(2 * math.prod(cut(shape, processes)) * of.itemsize for shape, of in full.values())
    total = moments + (0 if planned.block else STEP_BYTES * len(full))
    if not issubclass(planned.kind, LowRankOptimizer):
        return total
    for one in _cuts(planned, processes, side):
        layout = planned.kind.layout(one.m, one.n, one.group, one.of)
        for key, (shape, of) in layout.items():
            total += one.held * math.prod(_state_cut(key, shape, one.along, processes)) * of.itemsize
    return total


def _state_cut(key: str, shape: tuple[int, ...], along: str | None, processes: int) -> tuple[int, ...]:
    """Shape of a process' piece: moments (r, n) over n, bases (m, r) and errors (m, n) as the gradient is cut."""
    if along is None or len(shape) < 2 or (key.startswith("basis") and along == "n"):
        return shape
    first = along == "m" and (key.startswith("basis") or key == "error")
    return cut(shape, processes) if first else (shape[0], -(-shape[1] // processes))


def dealt_bytes(planned: PlannedStates, processes: int) -> int:
    """Bytes of states where whole parameters are dealt out, largest first, each to whom has least so far.

    Args:
        planned: The optimizer's states.
        processes: Among how many.

    Returns:
        Bytes on the process that holds most.
    """
    numbers, held = [0] * processes, [0] * processes
    names = list(planned.block or planned.trainable)
    for group in (planned.low, [name for name in names if name not in planned.low]):
        for name in sorted(group, key=lambda name: -math.prod(planned.trainable[name][0])):
            least = numbers.index(min(numbers))
            numbers[least] += math.prod(planned.trainable[name][0])
            held[least] += sharded_bytes(_only(planned, name), 1)
    return max(held)


def _only(planned: PlannedStates, name: str) -> PlannedStates:
    """The states of one parameter."""
    low = {name: planned.low[name]} if name in planned.low else {}
    block = (name,) if planned.block else ()
    return PlannedStates(planned.kind, {}, {name: planned.trainable[name]}, low, planned.group, block)


def exchanged(
    planned: PlannedStates, scope: str, cluster: Cluster, *, side: str | None = None
) -> tuple[Traffic, Traffic]:
    """What an optimizer's own collectives make a device receive; scalars are not counted.

    Sharded along n, a step exchanges nothing. Sharded along m, ``A = sum_k S_k^T G_k`` is reduced and scattered over
    columns, with the columns' squares where the method needs them, and ``O`` gathered, with the columns' factors.

    Args:
        planned: The optimizer's states.
        scope: Over which processes the states are sharded.
        cluster: The processes.
        side: From which side matrices are projected that are cut; None for the group's.

    Returns:
        Of a step, and what a refresh adds to it.
    """
    step = refresh = Traffic()
    if scope == "N" or not issubclass(planned.kind, LowRankOptimizer):
        return step, refresh
    d = cluster.processes(scope)
    for one in _cuts(planned, d, side):
        if one.along is None:
            continue
        e = exact_dtype(one.of).itemsize
        if one.along == "m":
            step += one.held * cluster.gather(scope, e * -(-one.n // d) * _numbers_per_column(planned.kind, one))
        refresh += one.held * _refresh(planned.kind, one, scope, cluster, e)
    return step, refresh


def _numbers_per_column(kind: type[torch.optim.Optimizer], one: _Cut) -> int:
    """Reduced and gathered numbers of a column of the gradient."""
    if kind is APOLLO:
        return one.r + 2  # A and the columns' squares; factors
    if issubclass(kind, SubspaceAdam):
        recovery = one.group["recovery"]
        return {"scaled": 2 * one.r + 2, "sign": 3 * one.r + 1, "feedback": 3 * one.r}.get(recovery, 2 * one.r)
    return 2 * one.r


def _refresh(kind: type[torch.optim.Optimizer], one: _Cut, scope: str, cluster: Cluster, e: int) -> Traffic:
    """What a refresh of one matrix adds, on average over the processes."""
    m, n, r, d = one.m, one.n, one.r, cluster.processes(scope)
    assert issubclass(kind, LowRankOptimizer)
    if r == m and kind.stays_at_full_rank:
        return Traffic()
    rule = str(one.group["rule"]) if issubclass(kind, SubspaceAdam) else "descent" * (kind is OnlineSubspaceDescent)
    if rule in _EXACT:  # to one process of d, which decomposes it, and the basis back
        back = m * r / d if one.along == "m" else m * r
        return _between_two(scope, cluster, e * (d - 1) / d * (m * n / d + back))
    turned = r * r if one.along == "m" and one.group.get("moments") == "transport" else 0
    if one.along == "m":
        summed = {"walk": 2 * r * r, "hybrid": 2 * r * r, "jump": 2 * r * r + turned, "track": 2 * r * r + n + turned,
                  "power": 2 * r * r + r * n + turned, "descent": 2 * r * r}  # fmt: skip
        gathered = r * n if rule in {"track", "descent"} else 0
    else:
        summed, gathered = {"track": m * r + r * r, "power": m * r, "descent": m * r}, 0
    return cluster.all_reduce(scope, e * summed.get(rule, 0)) + cluster.gather(scope, e * gathered / d)


def _between_two(scope: str, cluster: Cluster, received: float) -> Traffic:
    """Bytes that a process gets from any of the others alike."""
    if scope == "I":
        return Traffic(received)
    inside = (cluster.per_node - 1) / (cluster.world - 1)
    return Traffic(received * inside, received * (1 - inside))
