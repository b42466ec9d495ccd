"""Ways to shard a training over nodes: 27 combinations, what each moves in a step, and the setting of torch for it.

Legend: parameters, gradients and optimizer states are each whole (N), sharded over a node's processes (I) or over all
processes (G), as PaRO (arXiv 2310.06003) writes it; W processes, S of a node, ``W / S`` nodes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

SHARDINGS = tuple(map("".join, itertools.product("NIG", repeat=3)))
_FINENESS = {"N": 0, "I": 1, "G": 2}


@dataclass(frozen=True)
class Traffic:
    """Bytes that a device receives.

    Attributes:
        within: From its node.
        between: From other nodes.
    """

    within: float = 0.0
    between: float = 0.0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.within + other.within, self.between + other.between)

    def __rmul__(self, factor: float) -> Traffic:
        return Traffic(factor * self.within, factor * self.between)


@dataclass(frozen=True)
class Cluster:
    """W processes on nodes of S, neighbours by their numbers.

    Every collective moves as little as it can: a piece enters a node that lacks it once, and is passed on there. All
    devices of a node share its entrance evenly.

    Attributes:
        world: W.
        per_node: S, which divides W.
    """

    world: int
    per_node: int

    @property
    def nodes(self) -> int:
        """``W / S``."""
        return self.world // self.per_node

    def processes(self, scope: str) -> int:
        """Over how many processes something is sharded whose scope is N, I or G."""
        return {"N": 1, "I": self.per_node, "G": self.world}[scope]

    def gather(self, scope: str, piece: float) -> Traffic:
        """All-gather of a piece of every process of a scope; a reduce-scatter into such pieces receives the same."""
        if scope == "N":
            return Traffic()
        if scope == "I":
            return Traffic((self.per_node - 1) * piece)
        return Traffic(self.nodes * (self.per_node - 1) * piece, (self.nodes - 1) * piece)

    def across(self, piece: float) -> Traffic:
        """All-gather or reduce-scatter among the processes that have the same place in their nodes."""
        return Traffic(0.0, (self.nodes - 1) * piece)

    def all_reduce(self, scope: str, size: float) -> Traffic:
        """All-reduce of a tensor: a reduce-scatter and an all-gather."""
        return 2 * self.gather(scope, size / self.processes(scope))

    def all_reduce_across(self, size: float) -> Traffic:
        """All-reduce among the processes that have the same place in their nodes."""
        return 2 * self.across(size / self.nodes)


Pieces = Callable[[int], int]  # number of processes -> bytes of the largest piece


def step_traffic(sharding: str, cluster: Cluster, parameters: Pieces, gradients: Pieces, accumulation: int) -> Traffic:
    """What parameters and gradients make a device receive in a step, whatever the optimizer.

    Sharded parameters are gathered for the forward and again for the backward of every micro-batch, sharded gradients
    reduced after it. Whole gradients are added up locally and reduced once. Then what the states need is completed,
    once, and after the update what the parameters need.

    Args:
        sharding: One of `SHARDINGS`.
        cluster: The processes.
        parameters: Bytes of the largest piece by number of processes.
        gradients: The same of trainable parameters.
        accumulation: Micro-batches of a step.

    Returns:
        Bytes.
    """
    p, g, o = tuple(sharding)
    of_node, of_world = cluster.per_node, cluster.world

    def gathered(scope: str, pieces: Pieces) -> Traffic:
        return cluster.gather(scope, pieces(cluster.processes(scope)))

    if (p, o) == ("I", "G") and fully_sharded(sharding, accumulation):
        # reshard_after_forward=S: the forward gathers over all, the backward what the forward has left in the node
        backward = cluster.gather("I", cluster.nodes * parameters(of_world))
        reduced = (accumulation if g == "G" else 1) * gathered("G", gradients)
        return accumulation * (gathered("G", parameters) + backward) + reduced
    moved = accumulation * (2 * gathered(p, parameters) + gathered(g, gradients))
    across = cluster.all_reduce_across(gradients(of_node))
    completed = {
        "NN": cluster.all_reduce("G", gradients(1)),
        "NI": gathered("I", gradients) + across,
        "NG": gathered("G", gradients),
        "IN": across + gathered("I", gradients),
        "II": across,
        "IG": cluster.across(gradients(of_world)),
        "GN": gathered("G", gradients),
        "GI": cluster.across(gradients(of_world)),
        "GG": Traffic(),
    }[g + o]
    updated = parameters if fully_sharded(sharding, accumulation) else gradients
    returned = {
        "NI": gathered("I", updated),
        "NG": gathered("G", updated),
        "IG": cluster.across(updated(of_world)),
    }.get(p + o, Traffic())
    if dealt_out(sharding, accumulation):  # gradients are reduced as without it, then parameters are broadcast
        scope = o
        completed = cluster.all_reduce("G", gradients(1))
        returned = cluster.gather(scope, updated(1) / cluster.processes(scope))
    return moved + completed + returned


def parameter_bytes(sharding: str, cluster: Cluster, parameters: Pieces, accumulation: int) -> int:
    """Bytes of parameters that a device holds between the forward and the backward.

    FSDP2 keeps the shard that is updated beside what it gathered.

    Args:
        sharding: One of `SHARDINGS`.
        cluster: The processes.
        parameters: Bytes of the largest piece by number of processes.
        accumulation: Micro-batches of a step.

    Returns:
        Bytes.
    """
    p, _, o = tuple(sharding)
    held, kept = cluster.processes(p), cluster.processes(o)
    if held == kept or not fully_sharded(sharding, accumulation):
        return parameters(held)
    return (kept // held + 1) * parameters(kept)


def fully_sharded(sharding: str, accumulation: int) -> bool:
    """Whether FSDP2 does it: gradients as the states, or whole while micro-batches are accumulated."""
    p, g, o = tuple(sharding)
    reduced = g == o or (g == "N" and accumulation > 1)
    return o != "N" and reduced and _FINENESS[p] <= _FINENESS[o]


def dealt_out(sharding: str, accumulation: int) -> bool:
    """Whether `torch.distributed.optim.ZeroRedundancyOptimizer` does it, which deals out whole parameters."""
    return sharding in {"NNI", "NNG"} and not fully_sharded(sharding, accumulation)


def setting_of(sharding: str, cluster: Cluster, accumulation: int) -> str | None:
    """The setting of torch that realizes a combination.

    Args:
        sharding: One of `SHARDINGS`.
        cluster: The processes.
        accumulation: Micro-batches of a step.

    Returns:
        What to write, or None where torch has nothing.
    """
    p, g, o = tuple(sharding)
    if excluded_by(sharding, cluster, accumulation):
        return None
    if sharding == "NNN":
        return "DistributedDataParallel(gradient_as_bucket_view=True)"
    if dealt_out(sharding, accumulation):
        group = "process_group=node" if o == "I" else ""
        return f"DistributedDataParallel and ZeroRedundancyOptimizer({group})"
    if not fully_sharded(sharding, accumulation):
        return None
    reshard = "True" if p == o else "False" if p == "N" else str(cluster.per_node)
    mesh = f"mesh=({cluster.nodes}, {cluster.per_node}), " if o == "I" else ""
    calls = ""
    if accumulation > 1:
        if p == "N":
            calls += "; set_reshard_after_backward(False)"
        if g == "N":
            calls += "; set_requires_gradient_sync(False)"
        elif o == "I":
            calls += "; set_requires_all_reduce(False)"
    return f"fully_shard({mesh}reshard_after_forward={reshard}){calls}"


def excluded_by(sharding: str, cluster: Cluster, accumulation: int) -> str | None:
    """Why a combination is of no use here.

    Args:
        sharding: One of `SHARDINGS`.
        cluster: The processes.
        accumulation: Micro-batches of a step.

    Returns:
        The reason, or None.
    """
    p, g, o = tuple(sharding)
    if "I" in sharding and cluster.nodes == 1:
        return f"one node: as {sharding.replace('I', 'G')}"
    if "I" in sharding and cluster.per_node == 1:
        return f"one process per node: as {sharding.replace('I', 'N')}"
    if _FINENESS[o] < _FINENESS[p]:
        return "PaRO: states of parameters that are held elsewhere"
    if _FINENESS[o] < _FINENESS[g]:
        return "PaRO: gradients are scattered, then gathered again"
    if accumulation == 1 and g == "N" and p != "N":
        return f"one micro-batch: as {p}{o}{o}, nothing is added up"
    return None


def pieces_of(sizes: dict[str, tuple[tuple[int, ...], int]]) -> Pieces:
    """Bytes of the largest piece where every parameter is cut along its first dimension, as FSDP2 does.

    Args:
        sizes: Shape, and bytes of a number, by name.

    Returns:
        Number of processes to bytes.
    """

    def largest(processes: int) -> int:
        return sum(math.prod(cut(shape, processes)) * e for shape, e in sizes.values())

    return largest


def cut(shape: tuple[int, ...], processes: int) -> tuple[int, ...]:
    """Shape of the largest piece of a tensor that is cut along its first dimension."""
    return (-(-shape[0] // processes), *shape[1:]) if shape else ()
