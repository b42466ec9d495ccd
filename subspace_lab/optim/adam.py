"""Adam by torch's fused kernel: full-rank AdamW, the direction of low-rank moments, and moments in another basis.

The kernel walks through memory, not through indices: everything that it is given must lie alike.

Legend: A projected gradient, M and V moments, O direction, all ``(r, n)``; t steps counted from 1.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamw import adamw

from subspace_lab.optim.matrices import cast, exact_dtype, lie_alike, state_dtype
from subspace_lab.optim.rounding import add_rounded, blocks
from subspace_lab.optim.whole import local, local_state

_FUSED = {"cpu", "cuda"}  # devices that have the kernel


def full_rank_adamw(
    parameters: list[Tensor],
    gradients: list[Tensor],
    group: dict[str, Any],
    states: Mapping[Tensor, dict[str, Any]],
    rounding: Callable[[Tensor], torch.Generator | None],
) -> None:
    """One AdamW step, as `torch.optim.AdamW` takes it.

    Where parameter, gradient and moments are of one dtype and lie alike in memory, it is torch's own for all of them at
    once. Others, parameters of half precision among them, are stepped one by one, block by block, with moments of the
    group's ``state_dtype`` and one rounding.

    Args:
        parameters: Parameters with gradients.
        gradients: Their gradients, dense; of distributed parameters, of which nothing is exchanged here, what is here.
        group: Their group.
        states: State of each; empty before its first step.
        rounding: Source of stochastic rounding of a parameter, None for rounding to nearest.
    """
    together: list[tuple[Tensor, Tensor, dict[str, Any]]] = []
    for p, grad in zip(parameters, gradients, strict=True):
        state = states[p]
        if not state:
            kind = state_dtype(group, p.dtype)
            state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
            state["exp_avg"] = torch.zeros_like(p, dtype=kind)
            state["exp_avg_sq"] = torch.zeros_like(p, dtype=kind)
        own, here = local(p), local_state(p, state)
        if lie_alike(own, grad, here["exp_avg"], here["exp_avg_sq"]):
            together.append((own, grad, here))
        else:
            state["step"] += 1
            adam_step(own, grad, here, group, size=float(group["lr"]), rounding=rounding(p))
    if not together:
        return
    ps, grads, kept = (list(column) for column in zip(*together, strict=True))
    adamw(
        ps,
        grads,
        [state["exp_avg"] for state in kept],
        [state["exp_avg_sq"] for state in kept],
        [],
        [state["step"] for state in kept],
        fused=all(p.is_floating_point() and p.device.type in _FUSED for p in ps),
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=float(group["lr"]),
        weight_decay=group["weight_decay"],
        eps=_divisor(group["eps"], kept[0]["exp_avg"].dtype),
        maximize=False,
    )


def adam_step(
    p: Tensor,
    grad: Tensor,
    state: Mapping[str, Any],
    group: Mapping[str, Any],
    *,
    size: float,
    rounding: torch.Generator | None,
) -> None:
    """One AdamW step of a parameter of any layout and dtype: moments in their own, one rounding, block by block.

    Args:
        p: Parameter; complex numbers are taken as pairs of real ones.
        grad: Its gradient.
        state: With ``exp_avg``, ``exp_avg_sq`` and ``step``, this one counted.
        group: With ``lr``, ``betas``, ``eps`` and ``weight_decay``.
        size: What Adam's direction is multiplied by.
        rounding: Source of stochastic rounding, None for rounding to nearest.
    """
    M, V, decay = state["exp_avg"], state["exp_avg_sq"], 1 - float(group["lr"]) * group["weight_decay"]
    if p.is_complex():
        p, grad, M, V = (torch.view_as_real(x.resolve_conj().resolve_neg()) for x in (p, grad, M, V))
    exact = torch.promote_types(exact_dtype(p.dtype), M.dtype)
    for part, gradient, m, v in zip(*(blocks(x) for x in (p, grad, M, V)), strict=True):
        O = adam_direction(gradient.to(exact), m, v, t=state["step"], betas=group["betas"], eps=group["eps"])
        add_rounded(part, O.mul_(-size), decay, rounding)


def _divisor(eps: float, dtype: torch.dtype) -> float:
    """``eps``, or what keeps 0/0 away where it is 0: the root of the smallest normal number."""
    return float(max(eps, torch.finfo(dtype).tiny ** 0.5))


@functools.lru_cache(maxsize=8)
def _step(t: int, device: torch.device) -> Tensor:
    """The step as the kernel takes it, which does not change it: the same for all matrices."""
    return torch.tensor(float(t), dtype=torch.float32, device=device)


def adam_direction(
    A: Tensor, M: Tensor, V: Tensor, *, t: int | Tensor, betas: tuple[float, float], eps: float
) -> Tensor:
    """Update Adam's moments with A and return ``O = Mh / (sqrt(Vh) + eps)``, in one pass over memory.

    The kernel subtracts ``lr`` times the direction from a parameter: from zeros, with ``lr = -1``, that is the
    direction.

    Args:
        A: Projected gradient, of any layout.
        M: First moment, changed in place; of any floating dtype.
        V: Second moment, changed in place.
        t: The step, counted from 1 since the moments were zero.
        betas: Decay rates.
        eps: Added to the root.

    Returns:
        O, contiguous, of A's shape and dtype.
    """
    A = A.contiguous()
    O = torch.zeros_like(A)
    if A.numel() == 0:  # of a process that has no columns
        return O
    m, v = cast(M, A.dtype).contiguous(), cast(V, A.dtype).contiguous()
    step = t if isinstance(t, Tensor) else _step(t, A.device)
    settings: dict[str, Any] = {
        "beta1": betas[0], "beta2": betas[1], "lr": -1.0, "weight_decay": 0.0, "eps": _divisor(eps, A.dtype),
        "amsgrad": False, "maximize": False,
    }  # fmt: skip
    if A.device.type in _FUSED:  # the kernel itself: torch.optim's checks around it cost as much as a small matrix
        torch._fused_adam_([O], [A], [m], [v], [], [step], **settings)
    else:
        adam([O], [A], [m], [v], [], [step - 1], **settings)  # which counts the step itself
    for kept, new in ((M, m), (V, v)):
        if new is not kept:
            kept.copy_(new)
    return O


def transport(M: Tensor, V: Tensor, Q: Tensor, *, age: int, betas: tuple[float, float], clamped: bool) -> None:
    """Carry Adam's moments over to a new basis, in place (LDAdam, arXiv 2410.16103; "AO" in arXiv 2502.01586).

    Between the bases ``S_old, S (m, r)`` lies ``Q = S^T S_old (r, r)``; ``Mh, Vh`` are the bias-corrected moments.

    ``M = Q M`` and ``V = (1 - b2^(t-1)) |(Q*Q)(Vh - Mh*Mh) + (Q Mh)*(Q Mh)|``: the variance is carried over coordinate
    by coordinate, the mean exactly. Where the carried second moment is zero but for rounding it is kept above the
    mean's, times the rounding squared. The published absolute value can cross zero and then lets single steps grow;
    ``clamped`` takes ``max(Vh - Mh*Mh, 0)`` inside instead, so that ``V >= (Q Mh)^2`` bounds the step.

    Args:
        M: First moment (r, n), changed in place.
        V: Second moment (r, n), changed in place.
        Q: Rotation between the bases (r, r).
        age: Steps that the moments have seen, t - 1.
        betas: Adam's decay rates.
        clamped: Whether the variance is clamped at zero.
    """
    c = (1 - betas[1] ** age) / (1 - betas[0] ** age) ** 2  # V - c M*M is the variance, times V's correction
    V.addcmul_(M, M, value=-c)
    if clamped:
        V.clamp_min_(0)
    M.copy_(Q @ M)
    torch.addcmul((Q * Q) @ V, M, M, value=c, out=V).abs_()
    torch.maximum(V, M.square().mul_(c * torch.finfo(M.dtype).eps ** 2), out=V)


def transport_kept(
    M: Tensor, V: Tensor, places: Tensor, *, age: int, betas: tuple[float, float], clamped: bool
) -> None:
    """`transport` where the rows of Q hold at most a one: what stays takes its moments along, what comes has none.

    Args:
        M: First moment (r, n), changed in place.
        V: Second moment (r, n), changed in place.
        places: Where each direction stood in the old basis (r,), -1 where it did not.
        age: See `transport`.
        betas: See `transport`.
        clamped: See `transport`; else the second moment stays as it is.
    """
    there = (places >= 0)[:, None]
    for moment in (M, V):
        moment.copy_(moment[places.clamp_min(0)].mul_(there))
    if clamped:
        c = (1 - betas[1] ** age) / (1 - betas[0] ** age) ** 2
        torch.maximum(V, M.square().mul_(c), out=V)
