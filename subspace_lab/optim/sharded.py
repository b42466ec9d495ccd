"""A matrix that is distributed over processes by torch: FSDP2, tensor parallel, and both on a mesh of two dimensions.

Sums over the sharded side are exchanged, matrices are not. Where the rows of an oriented gradient (m, n) are
distributed, every process adds its part of ``A = S^T G``: a reduce-scatter leaves each with whole columns, Adam works
on these, an all-gather brings its direction back. Where the columns are distributed, nothing but scalars is exchanged.

Legend: G oriented gradient (m, n); S basis (m, r); A, M, V projected gradient and moments (r, n).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.placement_types import Placement, _StridedShard

from subspace_lab.optim.orientation import is_right, is_stack, num_rows
from subspace_lab.optim.whole import Whole, local

Placements = tuple[Placement, ...]
_LIKE_BASIS = {"basis", "basis_exp_avg", "basis_exp_avg_sq"}  # (m, r)
_LIKE_MOMENTS = {"exp_avg", "exp_avg_sq", "coordinates"}  # (r, n)
_LIKE_GRADIENT = {"error"}  # (m, n)
_WAYS = 2  # dimensions that a mesh may have


@dataclass(frozen=True)
class Cut:
    """One side of a matrix, cut over the processes of one dimension of a mesh, as `torch.chunk` cuts.

    Attributes:
        mesh: The mesh.
        dim: Its dimension.
        size: Length of what is cut.
    """

    mesh: DeviceMesh
    dim: int
    size: int

    @functools.cached_property
    def group(self) -> Any:
        """The processes."""
        return self.mesh.get_group(self.dim)

    @functools.cached_property
    def count(self) -> int:
        """How many they are."""
        return int(self.mesh.size(self.dim))

    @functools.cached_property
    def index(self) -> int:
        """Which of them this one is."""
        return int(self.mesh.get_local_rank(self.dim))

    @property
    def chunk(self) -> int:
        """Length of the largest part."""
        return math.ceil(self.size / self.count)

    def length(self, index: int) -> int:
        """Length of a part."""
        return max(0, min(self.chunk, self.size - index * self.chunk))

    @property
    def start(self) -> int:
        """Where the part that is here begins."""
        return min(self.index * self.chunk, self.size)

    def sum(self, x: Tensor, op: Any = distributed.ReduceOp.SUM) -> None:
        """All-reduce, in place."""
        distributed.all_reduce(x, op, group=self.group)

    def scatter_sums(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Reduce-scatter over columns, in one exchange: of sums of tensors (r, n) or (n,) the columns that are here."""
        rows = [part.shape[0] if part.dim() == 2 else 1 for part in parts]
        sent = parts[0].new_empty(self.count, sum(rows), self.chunk)
        full, rest = divmod(self.size, self.chunk) if self.chunk else (0, 0)
        for part, count, blocks in zip(parts, rows, torch.split(sent, rows, 1), strict=True):
            columns = part.reshape(count, self.size)
            blocks[:full] = columns[:, : full * self.chunk].view(count, full, self.chunk).transpose(0, 1)
            blocks[full:] = 0
            if rest:
                blocks[full, :, :rest] = columns[:, full * self.chunk :]
        mine = sent.new_empty(sum(rows), self.chunk)
        distributed.reduce_scatter_tensor(mine, sent.view(-1, self.chunk), group=self.group)
        return _pieces(mine[:, : self.length(self.index)], rows, parts)

    def all_gathers(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """All-gather, in one exchange: all columns of tensors (r, n) or (n,) of which some are here."""
        rows = [part.shape[0] if part.dim() == 2 else 1 for part in parts]
        mine = parts[0].new_zeros(sum(rows), self.chunk)
        for part, block in zip(parts, torch.split(mine, rows), strict=True):
            block[:, : part.shape[-1]] = part
        found = mine.new_empty(self.count * sum(rows), self.chunk)
        distributed.all_gather_into_tensor(found, mine, group=self.group)
        columns = found.view(self.count, sum(rows), self.chunk).transpose(0, 1).reshape(sum(rows), -1)
        return _pieces(columns[:, : self.size], rows, parts)

    def gather(self, X: Tensor, to: int, side: int) -> Tensor:
        """The whole matrix (m, n) on one process, of rows (0) or columns (1); the others get their own part back."""
        lines = X.movedim(side, 0)
        mine = lines.new_zeros(self.chunk, lines.shape[1])
        mine[: len(lines)] = lines
        if self.index != to:
            distributed.gather(mine, None, dst=distributed.get_global_rank(self.group, to), group=self.group)
            return X
        found = mine.new_empty(self.count, *mine.shape)
        distributed.gather(
            mine, list(found.unbind()), dst=distributed.get_global_rank(self.group, to), group=self.group
        )
        return found.flatten(0, 1)[: self.size].movedim(0, side)

    def broadcast(self, X: Tensor, source: int) -> None:
        """Copy X from one process to all, in place."""
        distributed.broadcast(X, src=distributed.get_global_rank(self.group, source), group=self.group)


@dataclass(frozen=True)
class Fused:
    """Matrices on top of each other in one parameter, whose rows are cut without regard to where one of them ends.

    For a step every process takes its part of each of them: rows go to who takes them, and come back.

    Attributes:
        cut: How the rows of the parameter are cut.
        each: How those of one matrix are, over the same processes.
    """

    cut: Cut
    each: Cut

    @functools.cached_property
    def _moves(self) -> tuple[Tensor, list[int], list[int]]:
        """The rows that are here by who takes them, and how many go to and come from each process."""
        rows, count = torch.arange(self.cut.size), self.cut.count
        has, takes = rows // self.cut.chunk, rows % self.each.size // self.each.chunk
        leaving, arriving = takes[has == self.cut.index], has[takes == self.cut.index]
        order = leaving.argsort(stable=True)
        return order, leaving.bincount(minlength=count).tolist(), arriving.bincount(minlength=count).tolist()

    def apart(self, X: Tensor) -> Tensor:
        """This process's part of every matrix (matrices, rows, ...), of the rows that are here."""
        order, leaving, arriving = self._moves
        found = X.new_empty(sum(arriving), *X.shape[1:])
        distributed.all_to_all_single(found, X[order], arriving, leaving, group=self.cut.group)
        return found.view(self.cut.size // self.each.size, self.each.length(self.each.index), *X.shape[1:])

    def put_together(self, parts: Sequence[Tensor], X: Tensor) -> None:
        """The way back, into the rows that are here."""
        order, leaving, arriving = self._moves
        found = X.new_empty(sum(leaving), *X.shape[1:])
        distributed.all_to_all_single(found, torch.cat(list(parts)), leaving, arriving, group=self.cut.group)
        X[order] = found


def _summed(cuts: Sequence[Cut], parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Sums of several tensors over the processes of the cuts, in one exchange."""
    if not cuts:
        return parts
    flat = torch.cat([part.reshape(-1) for part in parts])
    for cut in cuts:
        cut.sum(flat)
    pieces = torch.split(flat, [part.numel() for part in parts])
    return tuple(piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True))


def _pieces(whole: Tensor, rows: Sequence[int], like: Sequence[Tensor]) -> list[Tensor]:
    """Rows of one tensor as several, of the dtypes and dimensions of others."""
    return [
        (piece if part.dim() == 2 else piece[0]).to(part.dtype).contiguous()
        for piece, part in zip(torch.split(whole, list(rows)), like, strict=True)
    ]


@dataclass(frozen=True)
class Shards(Whole):
    """How an oriented matrix lies over the processes of a mesh.

    Attributes:
        m: Rows of the whole matrix.
        n: Columns.
        rows: Cuts of the rows, the outermost first.
        columns: Cuts of the columns.
        moments: Cuts of the columns of the moments over processes that hold other rows; none where both sides are
            cut: moments are then the same on all processes that hold the same columns.
        mesh: The mesh.
        row_placements: How a matrix (m, ...) lies; `Replicate` where the mesh does not cut the rows.
        column_placements: How a matrix (..., n) lies, by its second dimension.
        moment_placements: The same for the moments.
        stacked: Placements of the first dimension of stacks of matrices, where whole matrices are distributed.
        number: How many matrices are here.
        first: Number of the first one.
        fused: How the rows of the parameter lie, where those of its matrices do not lie as a step needs them.
    """

    m: int
    n: int
    rows: tuple[Cut, ...]
    columns: tuple[Cut, ...]
    moments: tuple[Cut, ...]
    mesh: DeviceMesh
    row_placements: Placements
    column_placements: Placements
    moment_placements: Placements
    stacked: Placements | None
    number: int
    first: int = 0
    fused: Fused | None = None

    @property
    def num_processes(self) -> int:  # type: ignore[override]
        """See `Whole`."""
        return math.prod(cut.count for cut in (*self.rows, *self.columns))

    @property
    def num_row_parts(self) -> int:  # type: ignore[override]
        """See `Whole`."""
        return math.prod(cut.count for cut in self.rows)

    def num_rows(self, X: Tensor) -> int:  # noqa: ARG002
        """See `Whole`."""
        return self.m

    @property
    def moves(self) -> bool:  # type: ignore[override]
        """See `Whole`."""
        return self.fused is not None

    def apart(self, X: Tensor) -> Tensor:
        """See `Whole`."""
        assert self.fused is not None
        return self.fused.apart(X)

    def put_together(self, parts: Sequence[Tensor], X: Tensor) -> None:
        """See `Whole`."""
        if self.fused is not None:
            self.fused.put_together(parts, X)

    def own_rows(self, X: Tensor) -> Tensor:
        """See `Whole`."""
        for cut in self.rows:
            X = X.narrow(0, cut.start, cut.length(cut.index))
        return X

    def all_rows(self, X: Tensor) -> Tensor:
        """See `Whole`."""
        for cut in reversed(self.rows):
            X = cut.all_gathers([X.mT])[0].mT
        return X.contiguous()

    def sum_rows(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """See `Whole`."""
        return _summed(self.rows, parts)

    def sum_columns(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """See `Whole`."""
        return _summed(self.columns, parts)

    def sum_moments(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """See `Whole`."""
        return _summed((*self.columns, *self.moments), parts)

    def max_columns(self, x: Tensor) -> Tensor:
        """See `Whole`."""
        for cut in self.columns:
            cut.sum(x, distributed.ReduceOp.MAX)
        return x

    def to_moments(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """See `Whole`."""
        if not self.moments:
            return self.sum_rows(*parts)
        found = [*parts]
        for cut in self.moments:
            found = cut.scatter_sums(found)
        return tuple(found)

    def from_moments(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """See `Whole`."""
        found = [*parts]
        for cut in reversed(self.moments):
            found = cut.all_gathers(found)
        return tuple(found)

    def norm(self, X: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """See `Whole`."""
        norm = torch.linalg.vector_norm(X, dtype=dtype)
        (square,) = _summed((*self.rows, *self.columns), (norm.double().square(),))
        return square.sqrt().to(norm.dtype)

    def rows_here(self, indices: Tensor) -> tuple[Tensor | None, Tensor]:
        """See `Whole`."""
        start, length = _start(self.rows), _length(self.m, self.rows)
        places = ((indices >= start) & (indices < start + length)).nonzero().flatten()
        return places, indices[places] - start

    def among(self, rows: Tensor, places: Tensor | None, number: int) -> Tensor:
        """See `Whole`."""
        spread = rows.new_zeros(number, rows.shape[1])
        spread[places] = rows
        return spread

    def placements(self, key: str) -> Placements:
        """How a tensor of the state lies, by its key."""
        none: Placements = (Replicate(),) * self.mesh.ndim
        along = {0: self.row_placements if key in _LIKE_BASIS | _LIKE_GRADIENT else none, 1: none}
        if key in _LIKE_MOMENTS:
            along[1] = self.moment_placements
        elif key in _LIKE_GRADIENT:
            along[1] = self.column_placements
        shift = 0 if self.stacked is None else 1
        found = list(self.stacked or none)
        for dim, placements in along.items():
            for way, placement in enumerate(placements):
                if not placement.is_replicate():
                    found[way] = _along(placement, dim + shift)
        return tuple(found)


def _start(cuts: Iterable[Cut]) -> int:
    return sum(cut.start for cut in cuts)


def _along(placement: Any, dim: int) -> Placement:
    """The same placement, of another dimension of a tensor."""
    if isinstance(placement, _StridedShard):
        return _StridedShard(dim, split_factor=placement.split_factor)
    return Shard(dim)


def _cuts(mesh: DeviceMesh, placements: Sequence[Placement], size: int) -> tuple[Cut, ...]:
    """Cuts of one side, the outermost first: from left to right, but a strided one is made after those beside it."""
    dims = [way for way, placement in enumerate(placements) if not placement.is_replicate()]
    dims.sort(key=lambda way: isinstance(placements[way], _StridedShard))
    cuts = []
    for way in dims:
        cut = Cut(mesh, way, size)
        size = cut.length(cut.index)
        if cut.count > 1:
            cuts.append(cut)
    return tuple(cuts)


def own_part(whole: Tensor, mesh: DeviceMesh, placements: Placements) -> Tensor:
    """The part of a tensor that this process holds, of one that is whole on all.

    Args:
        whole: The tensor.
        mesh: The mesh.
        placements: How it is to lie.

    Returns:
        A view.
    """
    for dim in range(whole.dim()):
        mine = [p if _shards(p, dim) else Replicate() for p in placements]
        for cut in _cuts(mesh, mine, whole.shape[dim]):
            whole = whole.narrow(dim, cut.start, cut.length(cut.index))
    return whole


def own_shape(shape: Sequence[int], mesh: DeviceMesh, placements: Placements) -> tuple[int, ...]:
    """Shape of the part of a tensor that this process holds."""
    return tuple(own_part(torch.empty(tuple(shape), device="meta"), mesh, placements).shape)


def own_offset(shape: Sequence[int], mesh: DeviceMesh, placements: Placements) -> tuple[int, ...]:
    """Where the part of a tensor begins that this process holds."""
    sides = [[p if _shards(p, dim) else Replicate() for p in placements] for dim in range(len(shape))]
    return tuple(_start(_cuts(mesh, side, size)) for side, size in zip(sides, shape, strict=True))


def distributed_tensor(part: Tensor, shape: Sequence[int], mesh: DeviceMesh, placements: Placements) -> DTensor:
    """A DTensor of a part.

    Args:
        part: What this process holds.
        shape: Of the whole tensor.
        mesh: The mesh.
        placements: How it lies.

    Returns:
        The tensor, which shares its memory with the part.
    """
    strides = torch.empty(tuple(shape), device="meta").stride()
    return DTensor.from_local(part, mesh, placements, run_check=False, shape=torch.Size(shape), stride=strides)


def check_distributed(p: Any, name: str) -> None:
    """Refuse parameters that are distributed in a way that is not known here.

    Args:
        p: A DTensor.
        name: What to call it.

    Raises:
        ValueError: One line.
    """
    mesh: DeviceMesh = p.device_mesh
    if mesh.ndim > _WAYS:
        raise ValueError(
            f"{name}: it lies on a mesh of {mesh.ndim} dimensions, {mesh}; meshes of one or two dimensions are known, "
            "such as FSDP2, HSDP, tensor parallel, FSDP2 with tensor parallel"
        )
    if mesh.get_coordinate() is None:
        raise ValueError(f"{name}: this process is not part of the mesh that it lies on; give only parameters that are")
    if not all(placement.is_replicate() or _shards(placement, None) for placement in p.placements):
        raise ValueError(f"{name}: its placements are {p.placements}; a parameter is sharded or replicated")
    if own_shape(p.shape, mesh, p.placements) != tuple(local(p).shape):
        raise ValueError(
            f"{name}: this process has a part of shape {tuple(local(p).shape)}, where its placements {p.placements} of "
            f"shape {tuple(p.shape)} make it {own_shape(p.shape, mesh, p.placements)}; shard it by fully_shard or "
            "parallelize_module"
        )


def _shards(placement: Placement, dim: int | None) -> bool:
    """Whether a placement shards a dimension, or any."""
    return isinstance(placement, Shard | _StridedShard) and dim in {None, placement.dim}


def sharded_side(p: Any, splits: int) -> str:
    """The side to project from such that what is sharded is not projected.

    Args:
        p: A DTensor.
        splits: How many matrices it is made of.

    Returns:
        ``"left"`` or ``"right"``; ``"auto"`` if neither rows nor columns are sharded.

    Raises:
        ValueError: If both are.
    """
    first = 1 if is_stack(tuple(p.shape), splits) else 0
    dims = {placement.dim - first for placement in p.placements if _shards(placement, None)} - {-1}
    if len(dims) > 1:
        raise ValueError(
            f"side='sharded' of a parameter whose rows and columns are both sharded ({p.placements}): there is no side "
            "that is not; say 'auto', 'left' or 'right'"
        )
    return "auto" if not dims else "right" if 0 in dims else "left"


_KNOWN: dict[Any, Shards] = {}


def shards_of(p: Any, side: str, splits: int) -> Shards:
    """How the matrices of a parameter lie.

    Args:
        p: A DTensor.
        side: ``"auto"``, ``"left"``, ``"right"`` or ``"sharded"``.
        splits: How many matrices it is made of.

    Returns:
        The same for all of its matrices.

    Raises:
        ValueError: If its matrices are cut in pieces that no state can lie along.
    """
    mesh: DeviceMesh = p.device_mesh
    key = (id(mesh), tuple(p.shape), p.placements, side, splits)  # equal meshes may be of other process groups
    if key not in _KNOWN:
        _KNOWN[key] = _shards_of(p, mesh, sharded_side(p, splits) if side == "sharded" else side, splits)
    return _KNOWN[key]


def _shards_of(p: Any, mesh: DeviceMesh, side: str, splits: int) -> Shards:
    shape, stack = tuple(p.shape), is_stack(tuple(p.shape), splits)
    rows = num_rows(shape, splits) // splits
    cols = p.numel() // (rows * splits)
    first = 1 if stack else 0
    none: Placements = (Replicate(),) * mesh.ndim
    by_dim = {dim: [x if _shards(x, dim) else Replicate() for x in p.placements] for dim in range(len(shape))}
    is_cut = {dim: any(_shards(x, dim) and mesh.size(way) > 1 for way, x in enumerate(p.placements)) for dim in by_dim}
    unknown = [dim for dim in by_dim if is_cut[dim] and dim > first + 1]
    if unknown:
        raise ValueError(f"dimension {unknown[0]} of shape {shape} is sharded; shard the first or the second one")
    along_rows, along_columns = tuple(by_dim[first]), tuple(by_dim[first + 1])
    along_stack, fused = tuple(by_dim[0]) if stack else none, None
    if splits > 1 and is_cut[first] and (not stack or splits != shape[0]):
        ways = math.prod(mesh.size(way) for way, x in enumerate(along_rows) if not x.is_replicate())
        if stack or (splits % ways and len(_cuts(mesh, along_rows, shape[0])) > 1):
            raise ValueError(
                f"splits={splits} of a parameter of shape {shape} as {p.placements}: its matrices begin inside of "
                "shards; shard it along another dimension, or train it as one matrix"
            )
        if splits % ways:
            fused = Fused(*(_cuts(mesh, along_rows, size)[0] for size in (shape[0], rows)))
        else:  # whole matrices on every process
            along_rows, along_stack = none, along_rows
    sides = [(rows, along_rows), (cols, along_columns)]
    if is_right(rows, cols, side):
        sides.reverse()
    (m, row_placements), (n, column_placements) = sides
    row_cuts, column_cuts = _cuts(mesh, row_placements, m), _cuts(mesh, column_placements, n)
    moments: tuple[Cut, ...] = ()
    moment_placements = column_placements
    if not column_cuts:
        moment_placements = tuple(x if x.is_replicate() else Shard(1) for x in row_placements)
        moments = _cuts(mesh, moment_placements, n)
    stacked = None if splits == 1 else along_stack
    starts = _cuts(mesh, along_stack, splits)
    number = starts[-1].length(starts[-1].index) if starts else splits
    part, here = local(p), number * _length(rows, _cuts(mesh, along_rows, rows))
    if fused is not None:
        here = part.shape[0]  # rows of some matrices, where a step takes rows of all
    uneven = stack and number != part.shape[0] * splits // shape[0]
    if uneven or here * _length(cols, _cuts(mesh, along_columns, cols)) != part.numel():
        raise ValueError(
            f"a parameter of shape {shape} as {p.placements} is cut unevenly over {mesh}: dimensions "
            "after the first, and stacks of matrices, have to be divisible by the number of processes"
        )
    return Shards(
        m, n, row_cuts, column_cuts, moments, mesh, row_placements, column_placements, moment_placements, stacked,
        number, _start(starts), fused,
    )  # fmt: skip


def _length(size: int, cuts: Sequence[Cut]) -> int:
    return cuts[-1].length(cuts[-1].index) if cuts else size
