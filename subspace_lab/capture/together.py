"""A step that several processes capture together: none of them gathers what can be summed, and all end alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, distributed

from subspace_lab.capture.collect import Collected, add_gradient, num_nonfinite
from subspace_lab.capture.gradients import dense_gradient
from subspace_lab.capture.layers import Layer
from subspace_lab.capture.reductions import (
    follows_from_gram,
    full_precision,
    part_of_gram,
    reduced_gram,
    reduction,
)
from subspace_lab.capture.shards import Arriving, Box, Piece, is_sharded, rounds, send_in_vain, send_to_owner
from subspace_lab.runs import RunError

_WRITER = 0


@dataclass
class _Found:
    """What a process found in its layers; tensors stay where they are.

    Attributes:
        kept: What is kept of the gradients that it owns.
        bad: Layer -> non-finite entries of its own shard, where no process has the whole gradient.
        failure: What went wrong first; the others wait for this process in what is left of the step.
    """

    kept: Collected = field(default_factory=Collected)
    bad: dict[str, int] = field(default_factory=dict)
    failure: Exception | None = None


class Together:
    """The processes of a sharded model, in one captured step.

    Every process makes one of the same layers, and then calls `collect`. Whatever goes wrong in one of them is an error
    in all of them, at the same place.

    Args:
        layers: The layers that are due, the same in every process.
        step: Optimizer steps taken before.
        settings: How this process captures, in words.
        failure: What went wrong in this process before.

    Raises:
        Exception: What went wrong in this process.
        RunError: If something went wrong in another one, or the processes are not at the same layers, or capture
            otherwise, so that they would not be in some later step.
    """

    def __init__(self, layers: Sequence[Layer], step: int, settings: str, failure: Exception | None = None) -> None:
        self._order = {layer.name: place for place, layer in enumerate(layers)}
        self._plain: list[Layer] = []
        self._pieces: list[Piece] = []
        self._dtypes: dict[str, torch.dtype] = {}
        try:
            self._look_at(layers if failure is None else ())
        except Exception as error:
            failure = error
        boxes = {piece.layer.name: piece.box for piece in self._pieces}
        theirs = agree(failure, ((step, [layer.name for layer in layers], settings), boxes))
        for rank, (where, _) in enumerate(theirs):
            if where != theirs[0][0]:
                (its_step, its_names, its_settings), (first_step, names, first_settings) = where, theirs[0][0]
                if its_settings != first_settings:
                    raise RunError(
                        f"process {rank} of {len(theirs)} captures with {its_settings}, process 0 with "
                        f"{first_settings}; make the same capture in every process"
                    )
                raise RunError(
                    f"process {rank} of {len(theirs)} captures {len(its_names)} layers at step {its_step}, process 0 "
                    f"{len(names)} at step {first_step}; make the same captures, and the same steps, in every process"
                )
        self._boxes: list[Mapping[str, Box]] = [boxes for _, boxes in theirs]
        self._missing = [layer.name for layer in self._plain if layer.parameter.grad is None]
        self._leave_out_incomplete()
        for piece in self._pieces:
            piece.add_up()

    @classmethod
    def is_needed(cls, layers: Sequence[Layer]) -> bool:
        """Whether the parameter of a layer is sharded over processes."""
        return any(is_sharded(layer.parameter) for layer in layers)

    def _look_at(self, layers: Sequence[Layer]) -> None:
        for layer in layers:
            gradient = layer.parameter.grad
            if gradient is None or not is_sharded(gradient):
                self._plain.append(layer)
            else:
                self._pieces.append(Piece.of(layer, gradient.detach()))
                self._dtypes[layer.name] = gradient.dtype

    def _leave_out_incomplete(self) -> None:
        """A gradient that one of its processes does not have is missing in all of them."""
        for piece in list(self._pieces):
            if not all(piece.layer.name in self._boxes[rank] for rank in piece.ranks.flatten().tolist()):
                self._pieces.remove(piece)
                self._missing.append(piece.layer.name)

    def collect(self, keep: str, scale: float | None) -> Collected:
        """Reduce the gradients of all layers.

        Args:
            keep: The reduction.
            scale: The loss scale that is still in the gradients, None for none.

        Returns:
            In the first process what was kept, nothing in the others.

        Raises:
            Exception: What went wrong in this process.
            RunError: If something went wrong in another one.
        """
        found, rank = _Found(), distributed.get_rank()
        held = [piece for piece in self._pieces if _WRITER in piece.ranks]
        for turn in rounds(held, writer=_WRITER if keep == "full" else None):
            self._take(turn, keep, scale, found)
        if rank == _WRITER:
            self._add_plain(keep, scale, found)
        return self._send_to_writer(found)

    def _take(self, turn: Sequence[tuple[Piece, int]], keep: str, scale: float | None, found: _Found) -> None:
        """One round: at most one gradient, or Gram matrix, comes together in this process, which then reduces it."""
        rank, operations = distributed.get_rank(), []
        summed: tuple[Piece, Tensor] | None = None
        arriving: tuple[Piece, Arriving] | None = None
        for piece, owner in turn:
            if rank not in piece.holders(owner):
                continue
            layer, adds = piece.layer, piece.adds_up()
            if adds and follows_from_gram(keep, (layer.rows, layer.cols), layer.side, adds):
                packed = piece.sum_at(owner, self._part(piece, keep, adds, scale, found))
                summed = summed if packed is None else (piece, packed)
            else:
                try:
                    more, mine = send_to_owner(piece, owner, self._boxes)
                except Exception as error:
                    found.failure, found.kept = found.failure or error, Collected()  # which nobody will write
                    more, mine = send_in_vain(piece, owner, self._boxes), None
                operations += more
                arriving = arriving if mine is None else (piece, mine)
        if operations:
            for request in distributed.batch_isend_irecv(operations):
                request.wait()
        try:
            if summed is not None:
                self._keep_gram(*summed, keep, found)
            if arriving is not None:
                piece, gradient = arriving[0], arriving[1].put_together()
                if scale is not None:
                    gradient = gradient.div_(scale) if piece.split else gradient / scale
                add_gradient(found.kept, piece.layer, gradient, reduction(keep))
        except Exception as error:
            found.failure = found.failure or error

    def _part(self, piece: Piece, keep: str, of: Any, scale: float | None, found: _Found) -> Tensor:
        """This process's summand of a Gram matrix; one that cannot be computed is zero, so that nobody waits for it."""
        shard, name = piece.local, piece.layer.name
        try:
            if count := num_nonfinite(shard):
                found.bad[name] = count
            with full_precision(shard.device.type):
                return part_of_gram(keep, shard if scale is None else shard / scale, of)
        except Exception as error:
            found.failure = found.failure or error
            empty = shard.new_empty((0, *shard.shape[1:]) if of == "right" else (*shard.shape[:-1], 0))
            return part_of_gram(keep, empty, of)

    def _keep_gram(self, piece: Piece, packed: Tensor, keep: str, found: _Found) -> None:
        layer, dtype = piece.layer, self._dtypes[piece.layer.name]
        found.kept.dtypes.add(str(dtype).removeprefix("torch."))
        if bad := num_nonfinite(packed):  # of a shard, or squares of very large entries overflow
            found.kept.nonfinite[layer.name] = bad
            return
        with full_precision(packed.device.type):
            shape = (layer.rows, layer.cols)
            kept = reduced_gram(keep, packed, shape=shape, side=layer.side, dtype=dtype)
        found.kept.tensors.update({f"{part}:{layer.name}": tensor.cpu().contiguous() for part, tensor in kept.items()})

    def _add_plain(self, keep: str, scale: float | None, found: _Found) -> None:
        """Gradients that are not sharded are those of the first process."""
        for layer in self._plain:
            try:
                if (gradient := dense_gradient(layer, scale)) is not None:
                    add_gradient(found.kept, layer, gradient, reduction(keep))
            except Exception as error:
                found.failure = found.failure or error

    def _send_to_writer(self, found: _Found) -> Collected:
        """What was kept comes to the first process, that of one process after the other."""
        kept = found.kept
        tables = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in kept.tensors.items()}
        theirs = agree(found.failure, (found.bad, kept.nonfinite, kept.dtypes, tables))
        rank, device = distributed.get_rank(), self._device()
        if rank != _WRITER:
            for dtype in _dtypes_of(tables):
                flat = torch.cat([t.flatten() for t in kept.tensors.values() if t.dtype == dtype])
                distributed.send(flat.to(device), _WRITER)
            return Collected()
        result, tensors = Collected(missing=self._missing), dict(kept.tensors)
        for source, (_, nonfinite, dtypes, table) in enumerate(theirs):
            result.dtypes |= dtypes
            result.nonfinite |= nonfinite
            for dtype in _dtypes_of(table) if source != _WRITER else ():
                shapes = {name: shape for name, (shape, its) in table.items() if its == dtype}
                sizes = [math.prod(shape) for shape in shapes.values()]
                flat = torch.empty(sum(sizes), dtype=dtype, device=device)
                distributed.recv(flat, source)
                parts = torch.split(flat.cpu(), sizes)
                tensors |= {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        counts: dict[str, int] = {}
        for bad, *_ in theirs:
            for name, count in bad.items():
                counts[name] = counts.get(name, 0) + count
        result.nonfinite |= counts
        result.tensors = {name: tensors[name] for name in sorted(tensors, key=self._place)}
        return result

    def _place(self, name: str) -> int:
        """Of the layer of a tensor in the table."""
        return self._order[name.partition(":")[2]]

    def _device(self) -> torch.device:
        return self._pieces[0].local.device if self._pieces else torch.device("cpu")


def _dtypes_of(table: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> list[torch.dtype]:
    """The types of tensors, in an order that sender and receiver share."""
    return list(dict.fromkeys(dtype for _, dtype in table.values()))


def agree(failure: Exception | None, mine: Any = None) -> list[Any]:
    """Whether all processes can go on, and what each of them says; all of them call this.

    Args:
        failure: What went wrong in this process, None for nothing.
        mine: What this process says.

    Returns:
        What each process says, by its number.

    Raises:
        Exception: What went wrong in this process.
        RunError: If something went wrong in another one.
    """
    theirs: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(theirs, (None if failure is None else in_a_line(failure), mine))
    if failure is not None:
        raise failure
    for rank, (line, _) in enumerate(theirs):
        if line is not None:
            raise RunError(f"process {rank} of {len(theirs)}: {line}")
    return [what for _, what in theirs]


def in_a_line(error: Exception) -> str:
    """An error in one line; that of a run is one already."""
    lines = str(error).splitlines()
    return lines[0] if lines and isinstance(error, RunError) else f"{type(error).__name__}: {' '.join(lines)[:500]}"
