"""Adam by torch's fused kernel: full-rank AdamW, and the direction of low-rank moments.

Legend: A projected gradient, M and V moments, O direction, all ``(r, n)``; t steps counted from 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.adamw import adamw

from subspace_lab.optim.matrices import cast

_FUSED = {"cpu", "cuda"}  # devices that have the kernel


def full_rank_adamw(parameters: list[Tensor], group: dict[str, Any], states: Mapping[Tensor, dict[str, Any]]) -> None:
    """One AdamW step of parameters that have gradients, as `torch.optim.AdamW` takes it.

    Args:
        parameters: Parameters with gradients.
        group: Their group.
        states: State of each; empty before its first step.
    """
    for p in parameters:
        if not states[p]:
            states[p]["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
            states[p]["exp_avg"] = torch.zeros_like(p)
            states[p]["exp_avg_sq"] = torch.zeros_like(p)
    if not parameters:
        return
    adamw(
        parameters,
        [p.grad.to_dense() if p.grad.is_sparse else p.grad for p in parameters if p.grad is not None],
        [states[p]["exp_avg"] for p in parameters],
        [states[p]["exp_avg_sq"] for p in parameters],
        [],
        [states[p]["step"] for p in parameters],
        fused=all(p.is_floating_point() and p.device.type in _FUSED for p in parameters),
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )


def adam_direction(A: Tensor, M: Tensor, V: Tensor, *, t: int, betas: tuple[float, float], eps: float) -> Tensor:
    """Update Adam's moments with A and return ``O = Mh / (sqrt(Vh) + eps)``, in one pass over memory.

    The kernel subtracts ``lr`` times the direction from a parameter: from zeros, with ``lr = -1``, that is the
    direction.

    Args:
        A: Projected gradient.
        M: First moment, changed in place; of any floating dtype.
        V: Second moment, changed in place.
        t: The step, counted from 1 since the moments were zero.
        betas: Decay rates.
        eps: Added to the root.

    Returns:
        O, of A's shape and dtype.
    """
    O = torch.zeros_like(A)
    m, v = cast(M, A.dtype), cast(V, A.dtype)
    step = torch.tensor(float(t), dtype=torch.float32, device=A.device)
    settings: dict[str, Any] = {
        "beta1": betas[0], "beta2": betas[1], "lr": -1.0, "weight_decay": 0.0, "eps": eps, "amsgrad": False,
        "maximize": False,
    }  # fmt: skip
    if A.device.type in _FUSED:  # the kernel itself: torch.optim's checks around it cost as much as a small matrix
        torch._fused_adam_([O], [A], [m], [v], [], [step], **settings)
    else:
        adam([O], [A], [m], [v], [], [step - 1], **settings)  # which counts the step itself
    if m is not M:
        M.copy_(m)
        V.copy_(v)
    return O
