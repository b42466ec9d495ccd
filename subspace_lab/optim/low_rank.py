"""What the methods with a rank share: matrices of parameters, zero first gradients, counting of steps and refreshes.

Legend: W parameter, G gradient, both ``(m, n)``, oriented so that ``m <= n``; r effective rank, ``min(rank, m)``; t
steps counted from 1; T update_interval.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from subspace_lab.optim.base import Group, GroupOptimizer, Live, State, name_of
from subspace_lab.optim.dealing import ELSEWHERE, Decomposition, dealt_out
from subspace_lab.optim.matrices import Matrix, pieces, state_dtype
from subspace_lab.optim.options import Options
from subspace_lab.optim.orientation import num_rows, oriented_shape
from subspace_lab.optim.random import Draw, generator, normal_draw
from subspace_lab.optim.saved_state import Kept
from subspace_lab.optim.shards import everywhere, kept_for, lies_of, offset_of, side_of
from subspace_lab.optim.whole import Whole, is_distributed, local, local_state

_OF_ADAMW = (
    "lr", "betas", "eps", "weight_decay", "state_dtype", "stochastic_rounding", "on_nonfinite",
)  # fmt: skip  # options that do something without a rank
Layout = dict[str, tuple[tuple[int, ...], torch.dtype]]


@dataclass(frozen=True)
class Turn:
    """What is to be done to one matrix in this step.

    Attributes:
        group: The one of ``param_groups`` that it is in.
        t: The step, counted from 1.
        refresh: Number of the latest refresh, 0 for the first subspace.
        is_refresh: Whether the subspace changes in this step.
        key: Seed, parameter (see `Live.key`) and, of a parameter of several matrices, piece.
        offset: Where the part of the parameter begins that this process holds; rounding there is drawn by itself.
    """

    group: Group
    t: int
    refresh: int
    is_refresh: bool
    key: tuple[object, ...]
    offset: tuple[int, ...] = ()

    @property
    def draw(self) -> Draw:
        """Gaussian matrices of the latest refresh, of whole matrices."""
        return self.draw_of(self.refresh)

    def draw_of(self, refresh: int) -> Draw:
        """The same of any refresh."""
        return normal_draw(*self.key[:2], refresh, *self.key[2:])

    @property
    def decay(self) -> float:
        """Factor of the weight decay."""
        return 1 - float(self.group["lr"]) * float(self.group["weight_decay"])

    @property
    def size(self) -> float:
        """What the direction is multiplied by."""
        return -float(self.group["lr"]) * float(self.group["scale"])

    def rounding(self) -> torch.Generator | None:
        """Source of stochastic rounding, where that is asked for."""
        return generator(*self.key, "rounding", self.t, *self.offset) if self.group["stochastic_rounding"] else None


class LowRankOptimizer(GroupOptimizer):
    """A group with a rank keeps the state of an r-dimensional subspace for each of its matrices.

    A subclass says what that state is (`layout`) and what a step does to one matrix (`_step_matrix`).

    Args:
        params: Parameters or groups. Where no group says anything of a rank, which leaves nothing but AdamW, there is a
            warning; a rank of None says that this is meant.
        lr: Learning rate.
        options: See `Options`.

    Attributes:
        refresh_clock: Entered around whatever chooses a subspace; a `RefreshClock` measures how long that takes.
    """

    options: ClassVar[tuple[str, ...]] = (
        *GroupOptimizer.options, "update_interval", "scale", "side", "splits",
    )  # fmt: skip
    shaping = ("rank", "side", "splits", "density", "rule", "moments", "recovery")
    refresh_clock: AbstractContextManager[Any] = nullcontext()
    stays_at_full_rank: ClassVar[bool] = True  # at r = m: no refresh, since there is nowhere to go

    def __init__(self, params: ParamsT, lr: float | None = None, **options: Unpack[Options]) -> None:
        given: Any = params if isinstance(params, Tensor | nn.Module) else list(params)  # the two are refused
        super().__init__(given, lr, **options)
        if "rank" not in options and not any(isinstance(group, dict) and "rank" in group for group in given):
            warnings.warn(
                f"no group has a rank, so that this {type(self).__name__} is full-rank AdamW; make the groups by "
                "subspace_lab.optim.param_groups(model, rank=...), or say rank=None if that is what you mean",
                stacklevel=2 + (type(self).__init__ is not LowRankOptimizer.__init__),  # the caller's line
            )

    @classmethod
    def effective_rank(cls, m: int, group: Group) -> int:
        """R of a matrix with m rows: the group's rank, and m where that is less."""
        return min(int(group["rank"]), m)

    @classmethod
    def layout(cls, m: int, n: int, group: Group, dtype: torch.dtype) -> Layout:
        """Shapes and dtypes of the tensors kept for one matrix.

        Args:
            m: Rows of the oriented gradient.
            n: Columns.
            group: Options, with a rank.
            dtype: The parameter's.

        Returns:
            State key to shape and dtype.
        """
        raise NotImplementedError

    def _step_matrix(self, x: Matrix, state: State, turn: Turn, index: tuple[int, int]) -> None:
        raise NotImplementedError

    def _effective(self, group: Group) -> tuple[str, ...]:
        return _OF_ADAMW if group["rank"] is None else super()._effective(group)

    def _check_group(self, group: Group) -> None:
        super()._check_group(group)
        if group["rank"] is None:
            return
        for place, p in enumerate(group["params"]):
            if p.dim() < 2 or p.numel() == 0 or not p.is_floating_point():
                raise ValueError(
                    f"{name_of(group, place)}: a group with a rank takes real matrices, got shape {tuple(p.shape)} of "
                    f"{p.dtype}; param_groups(model, rank={group['rank']}) builds groups that leave it full-rank"
                )
            rows = num_rows(p.shape, group["splits"])
            if rows % group["splits"]:
                raise ValueError(f"{name_of(group, place)}: splits={group['splits']} does not divide its {rows} rows")
            try:
                lies_of(p, group)
            except ValueError as error:
                raise ValueError(f"{name_of(group, place)}: {error}") from None
        if group["side"] == "sharded" and not any(map(is_distributed, group["params"])):
            raise ValueError(
                "side='sharded' projects from the side that is not sharded, and no parameter of the group is: "
                "shard the model first, by fully_shard or parallelize_module, or leave side out; with Accelerate, set "
                "it in the groups after prepare"
            )

    def _update_ranked(self, live: list[Live]) -> None:
        """Take the steps, as many parameters at once as there are processes that can each decompose a matrix."""
        self._bases: dict[tuple[int, int], Tensor] = {}  # computed on one process of a whole matrix, until its step
        shared = []
        for x in live:
            if is_distributed(x.p):
                shared.append(x)
            elif (turn := self._begin(x)) is not None:  # exchanges nothing; other processes may have no gradient of it
                self._take(x, turn)
        if shared:
            self._update_shared(shared)

    def _update_shared(self, live: list[Live]) -> None:
        """Steps of distributed parameters; a basis that cannot be computed on one process stops all in the end."""
        places = max(lies_of(x.p, x.group).num_processes for x in live)
        errors: list[Exception] = []
        chooses = False
        for start in range(0, len(live), places):
            begun = [(x, turn) for x in live[start : start + places] if (turn := self._begin(x)) is not None]
            chooses |= any(turn.t == 1 or turn.is_refresh for _, turn in begun)
            if places > 1:
                self._deal_out(begun)
            for x, turn in begun:
                self._take(x, turn, errors)
        if chooses and not everywhere(not errors, [x.p for x in live]):
            raise errors[0] if errors else ValueError(ELSEWHERE)

    def _take(self, x: Live, turn: Turn, errors: list[Exception] | None = None) -> None:
        """A step of one parameter; errors of a matrix that is whole here are kept: others wait in the next one."""
        stepped: list[Tensor] = []
        for matrix, part, of_matrix in self._matrices(x, turn):
            stepped.append(matrix.part)
            try:
                self._step_matrix(matrix, part, of_matrix, (x.index, matrix.number))
            except Exception as error:
                if errors is None or matrix.lies.num_processes > 1:
                    raise
                errors.append(error)
        if x.group["splits"] > 1:
            lies_of(x.p, x.group).put_together(stepped, local(x.p))

    def _begin(self, x: Live) -> Turn | None:
        """Count a step; None where there is nothing to choose a subspace by, which is not a step yet."""
        state, group = self.state[x.p], x.group
        if not state:
            self._allocate(x.p, state, group)
        if state["step"] == 0 and everywhere(not x.grad.any(), [x.p]):
            local(x.p).mul_(1 - float(group["lr"]) * group["weight_decay"])
            return None
        state["step"] += 1
        is_refresh = self._is_due(x.p, state["step"], group)
        state["refreshes"] += is_refresh
        offset = offset_of(x.p) if group["stochastic_rounding"] else ()
        return Turn(group, state["step"], state["refreshes"], is_refresh, (group["seed"], x.key), offset)

    def _matrices(self, x: Live, turn: Turn, grad: Tensor | None = None) -> Iterator[tuple[Matrix, State, Turn]]:
        """The matrices of a parameter that are here, each with its part of the state and what is to be done to it."""
        state, split = local_state(x.p, self.state[x.p]), x.group["splits"] > 1
        for place, matrix in enumerate(pieces(x.p, x.grad if grad is None else grad, x.group)):
            if split:
                part = {key: v[place] if isinstance(v, Tensor) else v for key, v in state.items()}
                yield matrix, part, replace(turn, key=(*turn.key, matrix.number))
            else:
                yield matrix, state, turn

    def _deal_out(self, begun: list[tuple[Live, Turn]]) -> None:
        """Have the bases computed that take a whole matrix."""
        work = {
            (x.index, matrix.number): job
            for x, turn in begun
            if turn.t == 1 or turn.is_refresh
            for matrix, part, of_matrix in self._matrices(x, turn)
            if matrix.lies.num_processes > 1
            if (job := self._decomposition(matrix, part, of_matrix)) is not None
        }
        self._bases = dict(zip(work, dealt_out(list(work.values())), strict=True))

    def _decomposition(self, x: Matrix, state: State, turn: Turn) -> Decomposition | None:  # noqa: ARG002
        """What one process is to compute of the whole of a distributed matrix in this step, if anything."""
        return None

    def _is_due(self, p: Tensor, t: int, group: Group) -> bool:
        if t == 1 or (t - 1) % group["update_interval"]:
            return False
        m, _ = oriented_shape(tuple(p.shape), side_of(p, group), group["splits"])
        return not (self.stays_at_full_rank and self.effective_rank(m, group) == m)

    def _allocate(self, p: Tensor, state: State, group: Group) -> None:
        layout, lies = self._kept(p, group), self._state_lies(p, group)
        state.update(step=0, refreshes=0)
        state.update({k: kept_for(p, k, shape, dtype, lies) for k, (shape, dtype) in layout.items()})

    def _state_lies(self, p: Tensor, group: Group) -> Whole | None:
        return None if group["rank"] is None else lies_of(p, group)

    def _kept(self, p: Tensor, group: Group) -> Kept:
        if group["rank"] is None:
            return super()._kept(p, group)
        return full_layout(type(self), tuple(p.shape), {**group, "side": side_of(p, group)}, p.dtype)


def full_layout(method: type[LowRankOptimizer], shape: tuple[int, ...], group: Group, dtype: torch.dtype) -> Layout:
    """State of a whole parameter: that of one matrix, stacked if there are several.

    Args:
        method: Whose state.
        shape: The parameter's.
        group: Options, with a rank.
        dtype: The parameter's.

    Returns:
        State key to shape and dtype.
    """
    m, n = oriented_shape(shape, group["side"], group["splits"])
    one = method.layout(m, n, group, dtype)
    if group["splits"] == 1:
        return one
    return {key: ((group["splits"], *part), kind) for key, (part, kind) in one.items()}


def low_rank_moments(r: int, n: int, group: Group, dtype: torch.dtype) -> Layout:
    """Adam's two moments (r, n)."""
    kind = state_dtype(group, dtype)
    return {"exp_avg": ((r, n), kind), "exp_avg_sq": ((r, n), kind)}
