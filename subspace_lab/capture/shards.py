"""A sharded gradient in pieces: where each piece lies, who works on which layer, and how pieces come together.

A process holds one box of a gradient, the entries ``offset`` to ``offset + shape``. A layer is worked on by one
process, its owner. Where the reduction follows from a Gram matrix that adds over the shards, every holder sends the
owner that of its shard; elsewhere it sends the shard, and the owner holds the gradient of that one layer whole. Owners
take turns, so that each of k processes owns one of k layers in a row.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, distributed

from subspace_lab.capture.layers import Layer
from subspace_lab.numerics import Side

Box = tuple[tuple[int, ...], tuple[int, ...]]  # offset and shape


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is one of several processes (a DTensor)."""
    return hasattr(tensor, "device_mesh")


@dataclass(frozen=True)
class Piece:
    """This process's piece of a layer's gradient.

    Attributes:
        layer: The layer.
        local: What this process holds of the layer, in the dimensions of its parameter.
        box: Where in the layer that is.
        ranks: The processes that hold the parameter, in the shape of their mesh.
        split: Dimension of the mesh -> dimension of the gradient that is sharded along it.
        groups: Dimension of the mesh -> the processes of this one along it.
        unsummed: Processes that `local` is still to be summed over, a copy then; see `add_up`.
    """

    layer: Layer
    local: Tensor
    box: Box
    ranks: Tensor
    split: Mapping[int, int]
    groups: Mapping[int, Any]
    unsummed: Sequence[Any] = ()

    @classmethod
    def of(cls, layer: Layer, gradient: Any) -> Piece:
        """The piece of a DTensor; nothing is sent, and nothing is summed.

        Args:
            layer: A captured layer.
            gradient: The gradient of its parameter.

        Returns:
            The piece.

        Raises:
            ValueError: If the gradient has another shape than the layer, or lies in a way that has no boxes or no sums.
        """
        from torch.distributed.tensor import Replicate

        if tuple(gradient.shape) != layer.whole:
            raise ValueError(
                f"the gradient of {layer.name} has shape {tuple(gradient.shape)}, its parameter had {layer.whole}"
            )
        mesh, local = gradient.device_mesh, gradient.to_local()
        sums = {i: p.reduce_op for i, p in enumerate(gradient.placements) if p.is_partial()}
        if not {*sums.values()} <= {"sum", "avg"}:
            raise ValueError(
                f"the gradient of {layer.name} is {gradient.placements} over the processes; capture sums and averages"
            )
        placements: tuple[Any, ...] = tuple(Replicate() if p.is_partial() else p for p in gradient.placements)
        offset, shape = _box(layer.whole, mesh, placements)
        if tuple(local.shape) != shape:
            raise ValueError(
                f"the gradient of {layer.name} is sharded as {gradient.placements}, of which a process holds "
                f"{tuple(local.shape)} where {shape} is expected; capture it with plain Shard and Replicate"
            )
        split = {i: p.dim for i, p in enumerate(placements) if not p.is_replicate() and mesh.size(i) > 1}
        groups = {i: mesh.get_group(i) for i in split}
        local, box = _of_layer(layer, local, (offset, shape))
        if sums:  # memory for them is taken before anybody waits
            local = local / math.prod(mesh.size(i) for i, operation in sums.items() if operation == "avg")
        unsummed = [mesh.get_group(i) for i in sums if mesh.size(i) > 1]
        return cls(layer, local.contiguous() if sums else local, box, mesh.mesh, split, groups, unsummed)

    def add_up(self) -> None:
        """Sum a gradient of unfinished sums, in place; all of its processes call this, in the same order."""
        for group in self.unsummed:
            distributed.all_reduce(self.local, group=group)

    def adds_up(self) -> Side | None:
        """The side whose Gram matrix is the sum of those of the shards: with sharded rows the right one."""
        rows = {dim == 0 for dim in self.split.values()}
        if self.layer.index is not None or len(rows) != 1:
            return None
        return "right" if rows == {True} else "left"

    def holders(self, owner: int) -> list[int]:
        """The processes that hold one copy of the gradient among them, the owner's; it is one of them."""
        place = (self.ranks == owner).nonzero()[0].tolist()
        index = tuple(slice(None) if dim in self.split else place[dim] for dim in range(self.ranks.ndim))
        found: list[int] = self.ranks[index].flatten().tolist()
        return found

    def sum_at(self, owner: int, tensor: Tensor) -> Tensor | None:
        """The sum over all holders of a tensor, in its owner; None in the others. All holders call this."""
        rank = distributed.get_rank()
        here, there = ((self.ranks == who).nonzero()[0].tolist() for who in (rank, owner))
        for dim, group in self.groups.items():
            here[dim] = there[dim]
            target = int(self.ranks[tuple(here)])
            distributed.reduce(tensor, dst=target, group=group)
            if rank != target:
                return None
        return tensor


@dataclass(frozen=True)
class Arriving:
    """A gradient that comes together in its owner.

    Attributes:
        whole: The gradient; its entries are there when everything has arrived.
        pieces: Buffer -> the part of `whole` that it is copied into.
    """

    whole: Tensor
    pieces: list[tuple[Tensor, Tensor]]

    def put_together(self) -> Tensor:
        """The gradient, once everything has arrived."""
        while self.pieces:
            buffer, part = self.pieces.pop()
            part.copy_(buffer)
        return self.whole


def send_to_owner(piece: Piece, owner: int, boxes: Sequence[Mapping[str, Box]]) -> tuple[list[Any], Arriving | None]:
    """What a holder sends to the owner of a layer, or what the owner receives.

    Args:
        piece: Of a layer that this process holds a piece of.
        owner: Who works on it.
        boxes: Of every process, by layer.

    Returns:
        Operations for `torch.distributed.batch_isend_irecv`, and in the owner what comes of them.
    """
    rank, name = distributed.get_rank(), piece.layer.name
    if not piece.split:
        return [], Arriving(piece.local.reshape(piece.layer.shape), []) if rank == owner else None
    dims = set(piece.split.values())
    first = dims.pop() if len(dims) == 1 else 0  # its shards are rows of a tensor that has this dimension first
    if rank != owner:
        send = distributed.P2POp(distributed.isend, piece.local.movedim(first, 0).contiguous(), owner)
        return ([send] if piece.local.numel() else []), None
    shape = list(_shape_in_parameter(piece.layer))
    rows = piece.local.new_empty([shape.pop(first), *shape])
    operations, pieces = [], []
    for source in piece.holders(owner):
        offset, extent = ([box[first], *box[:first], *box[first + 1 :]] for box in boxes[source][name])
        if not math.prod(extent):
            continue
        part = rows[tuple(slice(o, o + n) for o, n in zip(offset, extent, strict=True))]
        if source == rank:
            part.copy_(piece.local.movedim(first, 0))
            continue
        buffer = part if part.is_contiguous() else part.new_empty(extent)
        operations.append(distributed.P2POp(distributed.irecv, buffer, source))
        if buffer is not part:
            pieces.append((buffer, part))
    return operations, Arriving(rows.movedim(0, first).reshape(piece.layer.shape), pieces)


def send_in_vain(piece: Piece, owner: int, boxes: Sequence[Mapping[str, Box]]) -> list[Any]:
    """What the others wait for where `send_to_owner` failed: as many numbers, of no meaning, in memory for one shard.

    Args:
        piece: As for `send_to_owner`.
        owner: Who works on it.
        boxes: Of every process, by layer.

    Returns:
        Operations for `torch.distributed.batch_isend_irecv`.
    """
    rank = distributed.get_rank()
    if not piece.split:
        return []
    holders = [source for source in piece.holders(owner) if source != rank] if rank == owner else [rank]
    sizes = {source: math.prod(boxes[source][piece.layer.name][1]) for source in holders}
    room = piece.local.new_empty(max(sizes.values()))
    if rank != owner:
        return [distributed.P2POp(distributed.isend, room, owner)] if room.numel() else []
    return [distributed.P2POp(distributed.irecv, room[:size], source) for source, size in sizes.items() if size]


def rounds(pieces: Sequence[Piece], *, writer: int | None) -> Iterator[list[tuple[Piece, int]]]:
    """The layers in the order in which they are worked on, with their owners; no process owns two of a round.

    Args:
        pieces: Of all layers, in the same order in every process that holds them.
        writer: Who owns all of them, where nothing but to write them is to be done; None deals them out.

    Yields:
        Pieces and owners of a round.
    """
    for ranks in dict.fromkeys(tuple(piece.ranks.flatten().tolist()) for piece in pieces):
        same = [piece for piece in pieces if tuple(piece.ranks.flatten().tolist()) == ranks]
        owners = list(ranks) if writer is None else [writer]
        for begin in range(0, len(same), len(owners)):
            yield list(zip(same[begin : begin + len(owners)], owners, strict=False))


@functools.lru_cache(maxsize=1 << 14)
def _box(whole: tuple[int, ...], mesh: Any, placements: tuple[Any, ...]) -> Box:
    """Where the shard of this process lies."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    shape, offset = compute_local_shape_and_global_offset(whole, mesh, placements)
    return tuple(offset), tuple(shape)


def _shape_in_parameter(layer: Layer) -> tuple[int, ...]:
    """The shape of a layer in the dimensions of its parameter; a matrix of a stack has one of its own there."""
    return (1, *layer.shape) if len(layer.whole) > len(layer.shape) else layer.shape


def _of_layer(layer: Layer, local: Tensor, box: Box) -> tuple[Tensor, Box]:
    """What lies in the layer of a piece of its parameter, which is more where that is a stack of matrices."""
    if layer.index is None:
        return local, box
    offset, shape = box
    size = _shape_in_parameter(layer)[0]
    begin = min(max(layer.index * size, offset[0]), offset[0] + shape[0])
    end = max(min((layer.index + 1) * size, offset[0] + shape[0]), begin)
    inside = (max(begin - layer.index * size, 0), *offset[1:])
    return local[begin - offset[0] : end - offset[0]], (inside, (end - begin, *shape[1:]))
