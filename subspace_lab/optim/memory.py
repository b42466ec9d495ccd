"""How many bytes a model takes in training, by method: counted, nothing is built.

Legend: m, n oriented gradient shape, ``m <= n``; r effective rank; e bytes of a number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from subspace_lab._checks import check_choice, is_whole, whole_number
from subspace_lab._names import named_parameters
from subspace_lab.optim.badam import BAdam, block_name
from subspace_lab.optim.base import Group
from subspace_lab.optim.groups import select
from subspace_lab.optim.low_rank import LowRankOptimizer, full_layout
from subspace_lab.optim.matrices import exact_dtype, state_dtype
from subspace_lab.optim.methods import METHODS, method_named
from subspace_lab.optim.options import check_known, check_options, defaults_of
from subspace_lab.optim.orientation import num_rows, oriented_shape
from subspace_lab.optim.recovery import FEEDBACK
from subspace_lab.optim.roles import Role, role_by_name, roles_of
from subspace_lab.optim.rules import RULES, Trig
from subspace_lab.optim.shards import kept_shape, lies_of, side_of
from subspace_lab.optim.subspace_adam import SubspaceAdam, part_options
from subspace_lab.optim.whole import is_distributed, local

Shape = tuple[int, ...]
Sizes = dict[str, tuple[Shape, torch.dtype]]
_BASES = {"basis", "indices"}
EXACT = {"svd", "golore"}  # rules whose refresh decomposes a whole gradient
STEP_BYTES = 4  # of AdamW's step count, a float32 tensor


@dataclass(frozen=True)
class MemoryReport:
    """Bytes of training with one method; of a model in shards, those of the process that asks.

    Attributes:
        method: Name of the optimizer.
        weights: Of all parameters.
        gradients: Of all trainable ones, in the parameters' dtype.
        states: Moments and whatever else the optimizer keeps, bases excepted.
        bases: Bases of subspaces, indices included.
        refresh_workspace: What a refresh of the largest matrix holds for a moment, beside the state; 0 where there
            is none. A first basis that is the gradient's own holds once what GaLore's refreshes do.
    """

    method: str
    weights: int
    gradients: int
    states: int
    bases: int
    refresh_workspace: int

    @property
    def optimizer(self) -> int:
        """What the optimizer keeps between steps: states and bases."""
        return self.states + self.bases

    @property
    def total(self) -> int:
        """Everything, at a refresh; activations are not the optimizer's."""
        return self.weights + self.gradients + self.optimizer + self.refresh_workspace


def memory_report(
    model_or_shapes: nn.Module | Mapping[str, Shape],
    method: str | type[torch.optim.Optimizer],
    *,
    rank: int = 128,
    targets: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] = (),
    dtype: torch.dtype | None = None,
    **options: Any,
) -> MemoryReport:
    """Count the bytes of weights, gradients and optimizer, without building anything.

    Weights, gradients, states and bases are exact to the byte. The refresh workspace counts the matrices that the code
    holds at once and, of eigenproblems, LAPACK's work space.

    A model whose parameters torch has distributed (FSDP2, HSDP, tensor parallel) is counted as this process holds it,
    with the padding of uneven shards; nothing is communicated. Ask between steps, when parameters are in shards. What
    the process gathers in forward and backward is not counted. The refresh workspace is that of a whole matrix, and of
    its parts where they are gathered to be decomposed, without buffers of other collectives. Names and shapes give the
    whole.

    Args:
        model_or_shapes: A model (one on the meta device will do), or parameter name to shape.
        method: An optimizer or its name.
        rank: Rank of the targets; AdamW and BAdam have no use for this and the next two.
        targets: As in `param_groups`.
        exclude: As in `param_groups`.
        dtype: Of the parameters, where only shapes are given; float32 by default.
        options: Of the optimizer: ``state_dtype=``, ``splits=``, ``density=``, ...

    Returns:
        The bytes.

    Raises:
        ValueError: If there is no such method, or it does not have such an option; torch's AdamW has none here. If
            nothing can be trained, a matrix cannot be split as asked, or the bytes of a rule are not known. If
            ``side="sharded"`` is asked for and nothing is sharded.

    >>> report = memory_report({"layers.0.up.weight": (8, 16)}, "GaLore", rank=2)
    >>> report.weights, report.states, report.bases
    (512, 256, 64)
    """
    kept = plan_of(model_or_shapes, method, rank=rank, targets=targets, exclude=exclude, dtype=dtype, options=options)
    named = named_parameters(model_or_shapes) if isinstance(model_or_shapes, nn.Module) else {}
    if kept.group.get("side") == "sharded" and not any(is_distributed(named.get(name)) for name in kept.low):
        raise ValueError("side='sharded' projects from the side that is not sharded, and nothing is; leave it out")
    parts = {name: p for name, p in named.items() if is_distributed(p)}
    here = {name: (_part(parts, name, shape), of) for name, (shape, of) in kept.trainable.items()}
    states = bases = workspace = 0
    if kept.block:
        block = _largest_block(here, kept.group)
        states = 2 * sum(math.prod(here[name][0]) * state_dtype(kept.group, here[name][1]).itemsize for name in block)
    else:
        for name, asked in kept.low.items():
            shape, of = kept.trainable[name]
            assert issubclass(kept.kind, LowRankOptimizer)
            own = {**asked, "side": side_of(parts[name], asked)} if name in parts else asked
            for key, (whole, dtype_kept) in full_layout(kept.kind, shape, own, of).items():
                size = math.prod(_part(parts, name, whole, key, own)) * dtype_kept.itemsize
                bases, states = (bases + size, states) if key in _BASES else (bases, states + size)
            workspace = max(workspace, _workspace(kept.kind, shape, own, of, parts.get(name)))
        states += sum(2 * math.prod(here[name][0]) * of.itemsize + STEP_BYTES for name, (_, of) in kept.full.items())
    weights = {name: math.prod(shape) * of.itemsize for name, (shape, of) in kept.sizes.items()}
    weights |= {name: local(p).untyped_storage().nbytes() for name, p in parts.items()}
    gradients = sum(weights[name] for name in kept.trainable)
    return MemoryReport(kept.kind.__name__, sum(weights.values()), gradients, states, bases, workspace)


def _part(parts: Mapping[str, Tensor], name: str, shape: Shape, key: str = "", own: Group | None = None) -> Shape:
    """Shape of the part that this process holds of a parameter, or of a tensor of its state in a subspace."""
    p = parts.get(name)
    return shape if p is None else kept_shape(p, key, shape, None if own is None else lies_of(p, own))


@dataclass(frozen=True)
class PlannedStates:
    """What an optimizer of a model will keep states of: shapes and settings, before anything is built.

    Attributes:
        kind: The optimizer.
        sizes: Shape and dtype of all parameters.
        trainable: Of the trainable ones.
        low: Name of each matrix with a rank to the settings of its group.
        group: Settings of a group with a rank; empty for torch's AdamW.
        block: Names of the parameters whose moments are kept, where that is one block at a time; else empty.
    """

    kind: type[torch.optim.Optimizer]
    sizes: Sizes
    trainable: Sizes
    low: dict[str, Group]
    group: Group
    block: tuple[str, ...] = ()

    @property
    def full(self) -> Sizes:
        """Shape, and dtype of the moments, of the parameters that are full-rank AdamW."""
        rest = {name: size for name, size in self.trainable.items() if name not in self.low}
        return {name: (shape, state_dtype(self.group, of) if self.group else of) for name, (shape, of) in rest.items()}

    @property
    def block_sizes(self) -> Sizes:
        """Shape and dtype of the parameters of the block."""
        return {name: self.trainable[name] for name in self.block}


def plan_of(
    model_or_shapes: nn.Module | Mapping[str, Shape],
    method: str | type[torch.optim.Optimizer],
    *,
    rank: int,
    targets: str | Iterable[str] | None,
    exclude: str | Iterable[str],
    dtype: torch.dtype | None,
    options: Mapping[str, Any],
) -> PlannedStates:
    """Which parameters have which states; arguments and errors are those of `memory_report`."""
    kind = _kind_of(method)
    sizes, trainable = _sizes(model_or_shapes, dtype)
    if issubclass(kind, BAdam):
        group = _settings(kind, rank, options)
        return PlannedStates(kind, sizes, trainable, {}, group, _largest_block(trainable, group))
    if not issubclass(kind, LowRankOptimizer):
        check_known(options, (), kind.__name__)
        return PlannedStates(kind, sizes, trainable, {}, {})
    group = _settings(kind, rank, options)
    by_name = {name: role_by_name(name, shape) for name, (shape, _) in trainable.items()}
    roles = roles_of(model_or_shapes) if isinstance(model_or_shapes, nn.Module) else by_name
    low = {}
    for name in select(roles, targets, exclude):
        own = {**group, "splits": _num_matrices(roles[name], group["splits"])}
        rows = num_rows(trainable[name][0], own["splits"])
        if rows % own["splits"]:
            raise ValueError(f"{name}: splits={own['splits']} does not divide its {rows} rows")
        low[name] = own
    return PlannedStates(kind, sizes, trainable, low, group)


def _kind_of(method: str | type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    kind = method_named(method) if isinstance(method, str) else method
    if kind in METHODS.values() or (isinstance(kind, type) and issubclass(kind, LowRankOptimizer)):
        return kind
    got = method.__name__ if isinstance(method, type) else type(method).__name__
    raise ValueError(f"method must be torch's AdamW, an optimizer of subspace_lab.optim, or its name, got {got}")


def _sizes(model_or_shapes: nn.Module | Mapping[str, Shape], dtype: torch.dtype | None) -> tuple[Sizes, Sizes]:
    """Shape and dtype of all parameters, and of the trainable ones."""
    if not (dtype is None or (isinstance(dtype, torch.dtype) and dtype.is_floating_point)):
        raise ValueError(f"dtype must be a floating-point one of torch's, torch.bfloat16, got {dtype!r}")
    if isinstance(model_or_shapes, nn.Module):
        if dtype is not None:
            raise ValueError(f"dtype={dtype} has no effect on a model, which has its own; leave it out, or give shapes")
        named = named_parameters(model_or_shapes)
        sizes = {name: (tuple(p.shape), p.dtype) for name, p in named.items()}
        trainable = {name: size for name, size in sizes.items() if named[name].requires_grad}
    elif not isinstance(model_or_shapes, Mapping):
        raise ValueError(f"a model or a mapping of names to shapes is needed, got {type(model_or_shapes).__name__}")
    else:
        for name, shape in model_or_shapes.items():
            if not isinstance(shape, tuple | list) or not all(map(is_whole, shape)):
                raise ValueError(f"the shape of {name} must be a tuple of whole numbers of at least 1, got {shape!r}")
        trainable = sizes = {name: (tuple(shape), dtype or torch.float32) for name, shape in model_or_shapes.items()}
    if not trainable:
        raise ValueError("there is no parameter to train: none requires a gradient, or none was given")
    return sizes, trainable


def _settings(kind: type[Any], rank: int, options: Mapping[str, Any]) -> Group:
    """A group of an optimizer as its constructor would make it."""
    rank = whole_number("rank", rank)
    group = {**defaults_of(kind.options, kind.changed), "rank": rank, **options}
    known = kind.options
    if issubclass(kind, SubspaceAdam):
        if kind.parts is not None:
            group |= dict(zip(("rule", "moments", "recovery"), kind.parts, strict=True))
        else:
            check_choice("rule", group["rule"], RULES, otherwise=", whose bytes are known")
            known = (*LowRankOptimizer.options, "rule", "moments", "recovery", *part_options(group, {}))
    check_known(options, known, kind.__name__)
    check_options({"rank": rank, **options})
    return group


def _num_matrices(role: Role, splits: int) -> int:
    """How many matrices a parameter is, a stack of experts as many as there are unless more are asked for."""
    return splits if splits % role.matrices == 0 else role.matrices


def _largest_block(sizes: Sizes, group: Group) -> tuple[str, ...]:
    """Names of the parameters of the one of BAdam's blocks whose moments are largest."""
    blocks: dict[str, list[str]] = {}
    for index, name in enumerate(sizes):
        blocks.setdefault(block_name({**group, "param_names": [name]}, 0, index), []).append(name)

    def moments(names: Iterable[str]) -> int:
        return sum(math.prod(sizes[name][0]) * state_dtype(group, sizes[name][1]).itemsize for name in names)

    return tuple(max(blocks.values(), key=moments))


def _workspace(
    kind: type[LowRankOptimizer], shape: Shape, group: Group, dtype: torch.dtype, p: Tensor | None = None
) -> int:
    """Bytes that a refresh of one matrix holds at most; of a distributed one, of parameter p, see `memory_report`."""
    m, n = oriented_shape(shape, group["side"], group["splits"])
    r, e = kind.effective_rank(m, group), exact_dtype(dtype).itemsize
    if r == m and kind.stays_at_full_rank:
        return 0
    copied = 0 if dtype == exact_dtype(dtype) else e * m * n  # G, for the rule or its norm
    if issubclass(kind, SubspaceAdam):
        rule, feeds = RULES[group["rule"]], group["recovery"] in FEEDBACK
        basis = 0 if isinstance(rule, Trig) else m * r
        carried = e * (basis + n * r + 2 * r * r) if group["moments"] == "transport" else e * basis
        if group["rule"] in {"trig_walk", "dct"}:  # no rotation
            carried = 0
        old = e * (basis + n * r) if group["recovery"] == "feedback" else 0
        copied = 0 if feeds or isinstance(rule, Trig) else copied
        is_gathered = p is not None and lies_of(p, group).num_processes > 1 and group["rule"] in EXACT
        gathered = e * (m * n + 2 * m * r) if is_gathered else 0  # a matrix, its basis, and one that another sends
        return gathered + copied + max(rule.workspace(m, n, r, e), carried + old)
    return 6 * e * m * r + copied if "basis" in kind.layout(m, n, group, dtype) else e * m * r
