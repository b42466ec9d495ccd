"""Which sharding: bytes per device and bytes received per step, of 27 combinations, by method; nothing is built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from subspace_lab._checks import check_choice, positive_number, whole_number
from subspace_lab._text import unknown
from subspace_lab.optim.badam import BAdam
from subspace_lab.optim.memory import PlannedStates, Shape, plan_of
from subspace_lab.optim.sharded_states import dealt_bytes, exchanged, sharded_bytes
from subspace_lab.optim.shardings import (
    SHARDINGS,
    Cluster,
    Traffic,
    dealt_out,
    excluded_by,
    parameter_bytes,
    pieces_of,
    setting_of,
    step_traffic,
)

WORTH = 0.05  # of a device's bytes: what sharding the states must save at least
_SIDES = ("auto", "left", "right", "sharded")


@dataclass(frozen=True)
class ShardingReport:
    """One method under one sharding: bytes of the device that holds most, bytes that a device receives.

    Attributes:
        method: Name of the optimizer.
        side: As asked for; ``"sharded"`` where matrices are projected from the side that is not cut.
        sharding: Three letters, of parameters, gradients and states: N whole, I over a node's processes, G over all.
        parameters: Bytes between forward and backward, without the layer that is at work.
        gradients: Bytes after the backward.
        states: Bytes of moments, bases and whatever else the optimizer keeps.
        moved: Bytes that a device receives in a step for parameters and gradients, whatever the method.
        exchanged: What the method's own collectives add to it between refreshes; scalars are not counted.
        refresh: What a refresh adds.
        saved: Bytes that sharding the states saves against whole ones; None where they are whole.
        seconds: Of communication in a step, by the bandwidths; None without them.
        torch: The setting of torch that does it, None where there is none.
        excluded: Why nobody would, None where somebody might.
        source: ``"checked"``: a formula that tests compare with bytes and traffic of small models on four real
            processes; ``"formula"``: one that they do not.
    """

    method: str
    side: str
    sharding: str
    parameters: int
    gradients: int
    states: int
    moved: Traffic
    exchanged: Traffic
    refresh: Traffic
    saved: int | None
    seconds: float | None
    torch: str | None
    excluded: str | None
    source: str

    @property
    def total(self) -> int:
        """Parameters, gradients and states; activations are not counted."""
        return self.parameters + self.gradients + self.states

    @property
    def within(self) -> float:
        """Bytes received from the own node in a step between refreshes."""
        return self.moved.within + self.exchanged.within

    @property
    def between(self) -> float:
        """Bytes received from other nodes in a step between refreshes."""
        return self.moved.between + self.exchanged.between

    @property
    def pays(self) -> bool | None:
        """Whether sharding the states saves at least 5 % of the device's bytes; None where they are whole."""
        return None if self.saved is None else self.saved >= WORTH * (self.total + self.saved)


def sharding_report(
    model_or_shapes: nn.Module | Mapping[str, Shape],
    method: str | type[torch.optim.Optimizer],
    *,
    world: int,
    per_node: int,
    sharding: str | Iterable[str] = "all",
    rank: int = 128,
    targets: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] = (),
    dtype: torch.dtype | None = None,
    side: str = "auto",
    accumulation: int = 1,
    intra: float | None = None,
    inter: float | None = None,
    **options: Any,
) -> list[ShardingReport]:
    """Count bytes per device and bytes received per step under the shardings of PaRO (arXiv 2310.06003).

    Parameters, gradients and states are each whole (N), sharded over a node's processes (I) or over all (G): ``"GGG"``
    is ZeRO-3, ``"III"`` MiCS, ``"NNN"`` DDP. Of those that torch realizes, bytes and traffic are those of torch; the
    others are formulas: every piece enters a node once and is passed on there. Matrices are cut along their first
    dimension. A method with a rank exchanges about 2rn numbers per matrix and step where its gradient is cut along m,
    and none where it is cut along n.

    Args:
        model_or_shapes: As in `memory_report`.
        method: An optimizer or its name.
        world: Number of processes W, at least 2.
        per_node: Processes of a node S; divides W.
        sharding: Three letters, several such, or ``"all"``.
        rank: As in `memory_report`.
        targets: As in `memory_report`.
        exclude: As in `memory_report`.
        dtype: As in `memory_report`.
        side: As of the optimizer; ``"sharded"`` projects from the side that is not cut, wherever states are sharded.
        accumulation: Micro-batches of a step.
        intra: Bandwidth of a device within its node, GB/s (1e9 bytes).
        inter: Bandwidth of a device between nodes, GB/s: of the node's, divided by its devices.
        options: Of the optimizer, as in `memory_report`.

    Returns:
        One report per sharding, in the order NNN, NNI, ..., GGG.

    Raises:
        ValueError: As `memory_report` does; if the processes cannot be on such nodes, there is no such sharding, or an
            argument has no effect.

    >>> for row in sharding_report({"up.weight": (64, 64)}, "AdamW", world=4, per_node=2, sharding=["GGG", "NNN"]):
    ...     print(row.sharding, row.total, row.within, row.between, row.torch)
    NNN 65540 16384.0 8192.0 DistributedDataParallel(gradient_as_bucket_view=True)
    GGG 16388 24576.0 12288.0 fully_shard(reshard_after_forward=True)
    """
    cluster = _cluster(world, per_node)
    names = _named(sharding)
    check_choice("side", side, _SIDES)
    accumulation = whole_number("accumulation", accumulation)
    bandwidths = _bandwidths(cluster, intra, inter)
    own = {} if side in {"auto", "sharded"} else {"side": side}
    planned = plan_of(
        model_or_shapes, method, rank=rank, targets=targets, exclude=exclude, dtype=dtype, options={**own, **options}
    )
    if side != "auto" and not planned.low:
        raise ValueError(
            f"side={side!r} has no effect on {planned.kind.__name__}, which projects nothing; leave it out"
        )
    return [_report(planned, name, cluster, side, accumulation, bandwidths) for name in names]


def _cluster(world: int, per_node: int) -> Cluster:
    world, per_node = whole_number("world", world, 2), whole_number("per_node", per_node)
    if world % per_node:
        raise ValueError(f"per_node={per_node} does not divide world={world}: all nodes have equally many processes")
    return Cluster(world, per_node)


def _named(sharding: str | Iterable[str]) -> list[str]:
    given = [sharding] if isinstance(sharding, str) else list(sharding)
    if given == ["all"]:
        return list(SHARDINGS)
    if not given:
        raise ValueError("sharding names no combination; give 'all', or some of NNN ... GGG")
    if "all" in given:
        raise ValueError("there is no sharding 'all' beside others; give 'all' alone, or leave it out")
    for name in given:
        if name not in SHARDINGS:
            near = unknown("sharding", str(name).upper(), ["all", *SHARDINGS])
            raise ValueError(near.replace(repr(str(name).upper()), repr(str(name)), 1))
    return [name for name in SHARDINGS if name in set(given)]


def _bandwidths(cluster: Cluster, intra: float | None, inter: float | None) -> tuple[float, float] | None:
    if inter is not None and cluster.nodes == 1:
        raise ValueError(f"inter={inter} has no effect on one node; leave it out")
    if intra is not None and cluster.per_node == 1:
        raise ValueError(f"intra={intra} has no effect with one process per node; leave it out")
    if intra is None and inter is None:
        return None
    if (intra is None and cluster.per_node > 1) or (inter is None and cluster.nodes > 1):
        missing = "intra" if intra is None else "inter"
        raise ValueError(f"{missing} is needed for a time, too: the bandwidth of a device, GB/s")
    return (
        positive_number("intra", 1.0 if intra is None else intra),
        positive_number("inter", 1.0 if inter is None else inter),
    )


def _report(
    planned: PlannedStates,
    sharding: str,
    cluster: Cluster,
    side: str,
    accumulation: int,
    bandwidths: tuple[float, float] | None,
) -> ShardingReport:
    scope = sharding[2]
    parameters = pieces_of({name: (shape, of.itemsize) for name, (shape, of) in planned.sizes.items()})
    gradients = pieces_of({name: (shape, of.itemsize) for name, (shape, of) in planned.trainable.items()})
    moved = step_traffic(sharding, cluster, parameters, gradients, accumulation)
    projected = "right" if side == "sharded" else None  # rows are cut, so that columns are projected
    whole = sharded_bytes(planned, 1)
    dealt, setting = dealt_out(sharding, accumulation), setting_of(sharding, cluster, accumulation)
    if dealt:
        states, step, refresh = dealt_bytes(planned, cluster.processes(scope)), Traffic(), Traffic()
    else:
        states = sharded_bytes(planned, cluster.processes(scope), side=projected)
        step, refresh = exchanged(planned, scope, cluster, side=projected)
    total = moved + step
    is_checked = setting is not None and (
        dealt or scope == "N" or (side == "auto" and not issubclass(planned.kind, BAdam))
    )
    return ShardingReport(
        method=planned.kind.__name__,
        side=side,
        sharding=sharding,
        parameters=parameter_bytes(sharding, cluster, parameters, accumulation),
        gradients=gradients(cluster.processes(sharding[1])),
        states=states,
        moved=moved,
        exchanged=step,
        refresh=refresh,
        saved=None if scope == "N" else whole - states,
        seconds=bandwidths and (total.within / bandwidths[0] + total.between / bandwidths[1]) / 1e9,
        torch=setting,
        excluded=excluded_by(sharding, cluster, accumulation),
        source="checked" if is_checked else "formula",
    )
