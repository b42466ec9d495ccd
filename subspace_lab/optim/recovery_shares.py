"""What the last step did outside of the subspace: how much was there, how much of it was used, and the limiter's part.

Legend: G gradient (m, n); ``S (m, r)`` basis; ``A = S^T G``; L recovered part of the bulk, all of one matrix.
"""

from __future__ import annotations

import itertools

import torch

from subspace_lab.optim.base import Live
from subspace_lab.optim.shards import sum_over
from subspace_lab.optim.subspace_adam import SubspaceAdam
from subspace_lab.optim.whole import local, whole_of


@torch.no_grad()
def recovery_shares(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Shares of the last step, over all matrices with a basis; call it after ``step``, before the gradients are gone.

    It costs one product with the basis per matrix and is meant for the steps that are logged.

    Args:
        optimizer: Any; one without the parts of `SubspaceAdam` has none of these numbers.

    Returns:
        ``bulk_share``: ``||G - S A|| / ||G||``, norms over all matrices together. Where the bulk is recovered by
        scaling also ``recovery_share``: ``||L|| / ||G||``; ``limiter``: the factor that the limiter applied, mean over
        the matrices; ``limited_share``: at how many of them it acted. Empty where there is nothing to tell.
    """
    if not isinstance(optimizer, SubspaceAdam):
        return {}
    whole = core = recovered = 0.0
    is_scaled = False
    firsts = itertools.accumulate((len(group["params"]) for group in optimizer.param_groups), initial=0)
    for number, group in zip(firsts, optimizer.param_groups, strict=False):
        if group["rank"] is None:
            continue
        for place, p in enumerate(group["params"]):
            state = optimizer.state.get(p)
            if p.grad is None or not state:
                continue
            grad = local(p.grad)
            dense = grad if grad.layout == torch.strided else grad.to_dense()
            squares = inner = 0.0  # of what is here
            for matrix, S in optimizer.bases(Live(p, group, place, number + place), dense):
                squares += float(matrix.G.double().square().sum())
                (inside,) = matrix.lies.sum_rows(S.project(matrix.G))
                if not bool(inside.isfinite().all()):
                    (inside,) = matrix.lies.sum_rows(S.project(matrix.G.double()))
                inner += float(inside.double().square().sum()) / matrix.lies.num_row_parts
            whole, core = whole + sum_over(p, squares), core + sum_over(p, inner)
            if "recovery_norm" in state:
                is_scaled = True
                recovered += float(whole_of(state["recovery_norm"]).double().square().sum())
    if whole == 0:
        return {}
    shares = {"bulk_share": max(0.0, 1 - core / whole) ** 0.5}
    if is_scaled:
        factors = [float(factor) for factor in optimizer.limiter.values()] or [1.0]
        shares["recovery_share"] = (recovered / whole) ** 0.5
        shares["limiter"] = sum(factors) / len(factors)
        shares["limited_share"] = sum(factor < 1 for factor in factors) / len(factors)
    return shares
