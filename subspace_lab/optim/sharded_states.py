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
from subspace_lab.optim.matrices import exact_dtype, product_dtype, state_dtype
from subspace_lab.optim.memory import EXACT, STEP_BYTES, PlannedStates
from subspace_lab.optim.online_subspace_descent import OnlineSubspaceDescent
from subspace_lab.optim.orientation import ALONG_ROWS, is_stack, oriented_shape, side_for_rule
from subspace_lab.optim.rules.random_bases import is_well_conditioned
from subspace_lab.optim.shardings import Cluster, Traffic, cut
from subspace_lab.optim.subspace_adam import SubspaceAdam

_KNOW_THE_TURN = {"walk", "frozen", *ALONG_ROWS}  # rules that need no product of the old basis with the new one


@dataclass(frozen=True)
class _Cut:
    """One matrix of a parameter, or several alike, cut for d processes.

    Attributes:
        m: Rows of the oriented gradient.
        n: Columns.
        r: Effective rank.
        along: ``"m"`` or ``"n"``, the side that is cut; None where a process has whole matrices.
        held: How many matrices like this the fullest process has.
        fused: Rows of the parameter, rows of one matrix, and their length, where a process has parts of matrices that a
            step needs elsewhere.
        group: Settings.
        of: The parameter's dtype.
    """

    m: int
    n: int
    r: int
    along: str | None
    held: int
    fused: tuple[int, int, int] | None
    group: Group
    of: torch.dtype


def _cuts(planned: PlannedStates, processes: int, side: str | None) -> Iterator[_Cut]:
    assert issubclass(planned.kind, LowRankOptimizer)
    for name, own in planned.low.items():
        shape, of = planned.trainable[name]
        splits = own["splits"]
        group = own if side is None or processes == 1 else {**own, "side": side}
        group = {**group, "side": side_for_rule(group["side"], group.get("rule"), shape, splits)}
        m, n = oriented_shape(shape, group["side"], splits)
        rows = shape[1] if is_stack(shape, splits) else shape[0] // splits
        is_fused = splits > 1 and not is_stack(shape, splits)
        whole = processes == 1 or is_stack(shape, splits) or (is_fused and splits % processes == 0)
        along = None if whole else "n" if (rows == n and (rows != m or group["side"] == "right")) else "m"
        held = -(-shape[0] // processes) * splits // shape[0] if is_stack(shape, splits) else splits
        if is_fused and whole:
            held = splits // processes
        fused = (shape[0], rows, math.prod(shape[1:])) if is_fused and not whole else None
        yield _Cut(m, n, planned.kind.effective_rank(m, group), along, held, fused, group, of)


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
    Fused matrices of which a process has no whole ones move to where a step needs them, and back.

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
        if one.along == "m":
            columns = -(-one.n // d)
            step += one.held * cluster.gather(scope, columns * _bytes_per_column(planned.kind, one))
        if one.fused is not None:
            moved = _moved(*one.fused, one.of.itemsize, scope, cluster)
            step += 3 * moved  # gradient and weights, and these back
            stays = issubclass(planned.kind, LowRankOptimizer) and planned.kind.stays_at_full_rank and one.r == one.m
            refresh += (0 if stays else 2) * moved
        refresh += one.held * _refresh(planned.kind, one, scope, cluster)
    return step, refresh


def _moved(fused: int, rows: int, length: int, e: int, scope: str, cluster: Cluster) -> Traffic:
    """Rows of fused matrices from where they lie to who takes them for a step, on average over the processes."""
    d, row = cluster.processes(scope), torch.arange(fused)
    has, takes = row // -(-fused // d), row % rows // -(-rows // d)
    is_near = has // cluster.per_node == takes // cluster.per_node
    near, far = (float((here & (has != takes)).sum()) * length * e / d for here in (is_near, ~is_near))
    return Traffic(near, far)


def _bytes_per_column(kind: type[torch.optim.Optimizer], one: _Cut) -> int:
    """Of a column of the gradient: A reduced, in float32 or better, and what is gathered, in the dtype of products."""
    recovery = one.group["recovery"] if issubclass(kind, SubspaceAdam) and one.r < one.m else "none"
    reduced = one.r + (kind is APOLLO or recovery in {"scaled", "sign"})  # with the squares of the column
    gathered = {"scaled": one.r + 1, "sign": 2 * one.r + 1, "feedback": 2 * one.r, "residual": 2 * one.r}.get(
        recovery, one.r
    )
    if kind is APOLLO:
        gathered = 1
    kept = state_dtype(one.group, one.of)
    exact = torch.promote_types(exact_dtype(one.of), kept)
    return reduced * exact.itemsize + gathered * product_dtype(one.of).itemsize


def _refresh(kind: type[torch.optim.Optimizer], one: _Cut, scope: str, cluster: Cluster) -> Traffic:
    """What a refresh of one matrix adds, on average over the processes."""
    m, n, r, d, e = one.m, one.n, one.r, cluster.processes(scope), exact_dtype(one.of).itemsize
    assert issubclass(kind, LowRankOptimizer)
    if r == m and kind.stays_at_full_rank:
        return Traffic()
    rows_are_cut = one.along == "m"
    rule = str(one.group["rule"]) if issubclass(kind, SubspaceAdam) else "descent" * (kind is OnlineSubspaceDescent)
    turned = r * r if rows_are_cut and one.group.get("moments") == "transport" and rule not in _KNOW_THE_TURN else 0
    feeds = one.group.get("recovery") == "feedback"
    lost = r * r if rows_are_cut and feeds and rule not in ALONG_ROWS else 0
    m_part, n_part = -(-m // d), -(-n // d)
    if rule in EXACT:  # gradient and old basis to one process of d, which decomposes it; the new basis to all
        piece = m_part * (n + r) if rows_are_cut else m * n_part
        moved = _to_one(scope, cluster, e * piece) + cluster.gather(scope, e * m * r / d)
        return moved + cluster.all_reduce(scope, e * (turned + lost))
    if rule == "dct":  # energies in float64; where rows are cut, what they make of C G
        spread = cluster.gather(scope, e * m * n_part) if rows_are_cut else Traffic()
        carried = cluster.gather(scope, e * r * n_part) if rows_are_cut and feeds else Traffic()
        return cluster.all_reduce(scope, 8 * m) + spread + carried
    if rows_are_cut:
        summed = {
            "walk": 2 * r * r, "hybrid": 2 * r * r, "jump": r * r * is_well_conditioned(m, r), "power": r * n,
            "track": r * n + 2 * r * r + n + r, "descent": 2 * r * r,
        }.get(rule, 0)  # fmt: skip
        piece = {"power": r * (n_part + m_part), "descent": r * n_part}.get(rule, 0)
    else:
        summed, piece = {"track": m * r + r * r, "power": m * r, "descent": m * r}.get(rule, 0), 0
    if rows_are_cut and feeds:
        piece += r * n_part
    return cluster.all_reduce(scope, e * (summed + turned + lost)) + cluster.gather(scope, e * piece)


def _to_one(scope: str, cluster: Cluster, piece: float) -> Traffic:
    """A gather of pieces on one process, on average over all: it gets any of the others' alike."""
    received = (cluster.processes(scope) - 1) * piece / cluster.processes(scope)
    if scope == "I":
        return Traffic(received)
    inside = (cluster.per_node - 1) / (cluster.world - 1)
    return Traffic(received * inside, received * (1 - inside))
