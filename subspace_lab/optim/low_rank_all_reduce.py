"""DDP that sums projected gradients: r of m rows on the wire between refreshes.

Legend: G oriented gradient (m, n); P (m, r) basis of a method, Q (m, r) orthonormal basis of its space; W processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, distributed
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from subspace_lab._checks import check_choice
from subspace_lab.optim.apollo import APOLLO
from subspace_lab.optim.base import Group, State, name_of
from subspace_lab.optim.frugal import FRUGAL
from subspace_lab.optim.group_names import draw_key
from subspace_lab.optim.in_subspace import InSubspace, gradient_of
from subspace_lab.optim.low_rank import LowRankOptimizer
from subspace_lab.optim.matrices import Matrix, exact_dtype, pieces
from subspace_lab.optim.random import normal_draw
from subspace_lab.optim.rso import RSO
from subspace_lab.optim.rules import Trig
from subspace_lab.optim.subspace_adam import SubspaceAdam
from subspace_lab.optim.whole import WHOLE

_READS: dict[type, str] = {
    APOLLO: "steps along the whole gradient, with scaled columns",
    FRUGAL: "takes the signs of all rows outside of its own",
}
_RECOVERIES = {
    "scaled": "recovers what lies outside of its subspace (recovery='scaled')",
    "sign": "takes the signs of what lies outside of its subspace (recovery='sign')",
    "feedback": "keeps what the projection loses for the next step (recovery='feedback')",
    "residual": "keeps what the projection loses for the next step (recovery='residual')",
}


def low_rank_all_reduce(
    ddp_model: DistributedDataParallel,
    optimizer: torch.optim.Optimizer,
    *,
    clip_norm: Literal["projected"] | None = None,
) -> LowRankAllReduce:
    """Have DDP sum (r, n) instead of (m, n) numbers of every matrix with a rank, in steps without a refresh.

    Between refreshes a method without recovery uses nothing of a gradient but its product with the basis, and the sum
    over processes commutes with it: ``sum_k Q^T G_k = Q^T sum_k G_k``. The hook sums these products, and leaves
    ``Q Q^T G`` in ``p.grad``, of which every product with the subspace is that of G. The trajectory is that of plain
    DDP but for rounding. In steps that choose a subspace, and for all other parameters, everything is summed as ever.
    Two products per matrix are computed more than under plain DDP, so that it pays where the wire is slow. Gradients
    may be accumulated under ``no_sync``. Whether a step is finite is decided on what was summed, by all alike.

    What is outside of the subspace is not summed: whatever reads it (global norms for clipping or a log,
    `AdaptiveGroupClipper`, captures) is refused when it reads. With ``clip_norm="projected"`` it gets the part in the
    subspace: ``clip_grad_norm_`` then clips by the norm of the projected gradients in ordinary steps, and by the whole
    norm in those that refresh.

    Args:
        ddp_model: The wrapped model, before its first backward; DDP takes one hook.
        optimizer: Of its parameters: `GaLore`, `GoLore`, `OnlineSubspaceDescent`, `RSO`, or a `SubspaceAdam` without
            recovery.
        clip_norm: ``"projected"`` lets others read the gradients of ordinary steps.

    Returns:
        What was registered; its `close` goes back to whole gradients.

    Raises:
        ValueError: If the model is not DDP's, has a hook, the method reads more of the gradient, or its settings (the
            seed among them) are not the same on all processes; says what. All processes have to call it.
    """
    if not isinstance(ddp_model, DistributedDataParallel):
        raise ValueError(
            f"low_rank_all_reduce takes a DistributedDataParallel model, got {type(ddp_model).__name__}; give the DDP "
            "model that a compiled or wrapped one contains; sharded parameters exchange low-rank numbers anyway"
        )
    check_choice("clip_norm", clip_norm, ("projected", None))
    method = type(optimizer).__name__
    if not isinstance(optimizer, LowRankOptimizer):
        raise ValueError(
            f"{method} steps along the whole gradient: there is no subspace to sum in; leave the hook out, or give the "
            "low-rank optimizer that a wrapper contains"
        )
    reasons = {reason for group in optimizer.param_groups if (reason := reads_bulk(optimizer, group))}
    if reasons:
        raise ValueError(
            f"{method} {min(reasons)}, so that its gradients must be summed whole; GaLore, GoLore, RSO, "
            "OnlineSubspaceDescent and SubspaceAdam(recovery='none') use the subspace only"
        )
    ours = {id(p) for p in ddp_model.parameters()}
    ranked = [p for group in optimizer.param_groups if group["rank"] is not None for p in group["params"]]
    if not any(id(p) in ours for p in ranked):
        raise ValueError(f"no parameter of the model has a rank in this {method}: there is nothing to project")
    if ddp_model._comm_hooks:
        raise ValueError("this DDP model has a communication hook, and DDP takes one; wrap the model anew")
    _check_alike(optimizer, ddp_model.process_group)
    made = LowRankAllReduce(optimizer, ddp_model.process_group, readable=clip_norm == "projected")
    optimizer.register_step_pre_hook(lambda *_: made._check_step())
    ddp_model.register_comm_hook(made, lambda state, bucket: _reduce(state, bucket))  # DDP reads annotations as types
    return made


def _check_alike(optimizer: LowRankOptimizer, group: Any) -> None:
    """Refuse optimizers whose subspaces would be others on other processes."""
    own = [{k: v for k, v in of.items() if k not in {"params", "param_names"}} for of in optimizer.param_groups]
    found: list[Any] = [None] * distributed.get_world_size(group)
    distributed.all_gather_object(found, own, group=group)
    for rank, theirs in enumerate(found):
        for number, (here, there) in enumerate(zip(own, theirs, strict=False)):
            names = [name for name in here if here[name] != there.get(name)]
            if names:
                raise ValueError(
                    f"param_groups[{number}] has {names[0]}={here[names[0]]!r} here and {there.get(names[0])!r} on "
                    f"process {rank}: give all processes the same settings, the seed included"
                )
        if len(own) != len(theirs):
            raise ValueError(f"there are {len(own)} groups here and {len(theirs)} on process {rank}")


def reads_bulk(optimizer: LowRankOptimizer, group: Group) -> str | None:
    """Why a group with a rank needs its whole gradients between refreshes, or None."""
    if group["rank"] is None:
        return None
    if isinstance(optimizer, SubspaceAdam):
        return _RECOVERIES.get(group["recovery"])
    return next((reason for kind, reason in _READS.items() if isinstance(optimizer, kind)), None)


@dataclass
class LowRankAllReduce:
    """A hook that is registered, see `low_rank_all_reduce`.

    Attributes:
        optimizer: Whose subspaces.
        group: Processes that sum.
        readable: Whether others than the optimizer may read a projected gradient.
        closed: Whether gradients are summed whole, for good.
    """

    optimizer: LowRankOptimizer
    group: Any
    readable: bool
    closed: bool = False
    _places: dict[Tensor, tuple[Group, int, int]] = field(default_factory=dict, repr=False)
    _orthonormal: dict[tuple[Tensor, int], tuple[object, Tensor]] = field(default_factory=dict, repr=False)
    _projected: dict[Tensor, State] = field(default_factory=dict, repr=False)  # with what their subspace is part of

    def close(self) -> None:
        """Sum whole gradients from the next backward on; DDP keeps the hook, which then does what DDP does."""
        self.closed = True
        self._orthonormal.clear()

    def _begin(self) -> None:
        """A backward's first bucket."""
        self._places.clear()
        self._projected.clear()
        index = 0
        for group in self.optimizer.param_groups:
            for place, p in enumerate(group["params"]):
                self._places[p] = (group, place, index)
                index += 1

    def _spaces(self, p: Tensor, grad: Tensor) -> list[tuple[Matrix, Tensor]] | None:
        """The matrices of a gradient with a basis of their subspace, None if the step needs all of it."""
        if self.closed or p not in self._places:
            return None
        group, place, index = self._places[p]
        state = self.optimizer.state.get(p)
        if group["rank"] is None or reads_bulk(self.optimizer, group) or not state:
            return None
        t = state["step"] + 1
        if t == 1 or self.optimizer._is_due(p, t, group):
            return None
        found = []
        for k, matrix in enumerate(pieces(grad, grad, group)):
            key = (group["seed"], draw_key(group, place, index), state["refreshes"], *([k] * (group["splits"] > 1)))
            Q = self._basis(p, k, matrix.G, state, key, group)
            if Q.shape[1] == Q.shape[0]:
                return None  # nothing would be saved
            found.append((matrix, Q))
        return found

    def _basis(self, p: Tensor, k: int, G: Tensor, state: State, key: tuple[object, ...], group: Group) -> Tensor:
        """Orthonormal basis (m, r) of the subspace, in the dtype of G; kept where it has to be computed."""
        exact = exact_dtype(G.dtype)
        if isinstance(self.optimizer, RSO):
            source: object = key
            known = self._orthonormal.get((p, k))
            if known is None or known[0] != source:
                P = normal_draw(*key)(G.shape[0], self.optimizer.effective_rank(G.shape[0], group))
                known = (source, torch.linalg.qr(P.to(G.device, exact)).Q.to(G.dtype))
                self._orthonormal[p, k] = known
            return known[1]
        if isinstance(self.optimizer, SubspaceAdam) and isinstance(rule := self.optimizer._rule(group), Trig):
            return self._cosines(rule, p, k, G, state, key)
        whole: Tensor = state["basis"]
        S = whole[k] if group["splits"] > 1 else whole
        if isinstance(self.optimizer, SubspaceAdam) and whole.dtype.itemsize >= exact.itemsize:
            return S.to(G.dtype)
        known = self._orthonormal.get((p, k))
        if known is None or not (isinstance(known[0], _Version) and known[0].is_of(whole)):
            known = (_Version(whole, whole._version), torch.linalg.qr(S.to(exact)).Q.to(G.dtype))
            self._orthonormal[p, k] = known
        return known[1]

    def _cosines(self, rule: Trig, p: Tensor, k: int, G: Tensor, state: State, key: tuple[object, ...]) -> Tensor:
        """The same of a basis that is not kept: as a matrix, from one refresh to the next."""
        seed, drawn_by, _, *piece = key
        indices, moments = state.get("indices"), state["exp_avg"]
        source = (key, indices is not None and indices._version)
        known = self._orthonormal.get((p, k))
        if known is None or known[0] != source:
            if piece:
                indices, moments = None if indices is None else indices[k], moments[k]
            S = rule.kept(
                G,
                moments.shape[0],
                indices,
                lambda n: normal_draw(seed, drawn_by, n, *piece),
                state["refreshes"],
                WHOLE,
            )
            known = (source, S.dense(exact_dtype(G.dtype)).to(G.dtype))
            self._orthonormal[p, k] = known
        return known[1]

    def _guard(self) -> None:
        """At the end of a backward: gradients that were summed in a subspace are for the optimizer only."""
        for p in self._places:
            if p.grad is None:
                continue
            if p in self._projected and not self.readable:
                p.grad = gradient_of(p).as_subclass(InSubspace)
            elif isinstance(p.grad, InSubspace):
                p.grad = gradient_of(p)

    def _check_step(self) -> None:
        """Refuse a step by gradients of which only the part in another subspace, or in an earlier one, was summed."""
        for p, state in self._projected.items():
            group, place, _ = self._places[p]
            if p.grad is None:
                continue
            if self.optimizer.state.get(p) is not state or self.optimizer._is_due(p, state["step"] + 1, group):
                raise ValueError(
                    f"{name_of(group, place)}: its gradient was summed in the subspace before a state was loaded or "
                    "update_interval was changed: do that before the backward"
                )


@dataclass(frozen=True)
class _Version:
    """A tensor as it was."""

    tensor: Tensor
    version: int

    def is_of(self, tensor: Tensor) -> bool:
        return self.tensor is tensor and self.version == tensor._version


@torch.no_grad()
def _reduce(state: LowRankAllReduce, bucket: Any) -> Future[Any]:
    """The communication hook: one all-reduce of the projected and of the whole gradients of a bucket."""
    if bucket.index() == 0:
        state._begin()
    flat: Tensor = bucket.buffer()
    gradients: list[Tensor] = bucket.gradients()
    spaces = [state._spaces(p, grad) for p, grad in zip(bucket.parameters(), gradients, strict=True)]
    for p, found in zip(bucket.parameters(), spaces, strict=True):
        if found:
            state._projected[p] = state.optimizer.state[p]
    if bucket.is_last():  # behind what DDP itself does at the end of the backward
        later: Callable[[Callable[[], None]], None] = torch.autograd.Variable._execution_engine.queue_callback
        later(lambda: later(state._guard))
    W = distributed.get_world_size(state.group)
    if not any(spaces):
        flat.div_(W)
        whole: Future[Any] = distributed.all_reduce(flat, group=state.group, async_op=True).get_future()
        return whole.then(lambda future: future.value()[0])
    parts: list[Tensor] = []
    for found, grad in zip(spaces, gradients, strict=True):
        parts += [grad] if found is None else [(Q.mT @ matrix.G).to(flat.dtype) for matrix, Q in found]
    sent = torch.cat([part.reshape(-1) for part in parts]).div_(W)
    summed: Future[Any] = distributed.all_reduce(sent, group=state.group, async_op=True).get_future()

    @torch.no_grad()
    def unpack(future: Future[list[Tensor]]) -> Tensor:
        chunks = iter(torch.split(future.value()[0], [part.numel() for part in parts]))
        for found, grad in zip(spaces, gradients, strict=True):
            if found is None:
                grad.copy_(next(chunks).view(grad.shape))
                continue
            for matrix, Q in found:
                lifted = Q @ next(chunks).view(Q.shape[1], -1).to(Q.dtype)
                matrix.part.copy_((lifted.mT if matrix.right else lifted).reshape(matrix.part.shape))
        return flat

    return summed.then(unpack)
