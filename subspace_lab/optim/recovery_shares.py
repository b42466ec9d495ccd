"""What the last step did outside of the subspace: how much was there, how much of it was used, and the limiter's part.

Legend: G gradient (m, n); ``S (m, r)`` basis; ``A = S^T G``; L recovered part of the bulk, all of one matrix.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

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
    limiter: list[Tensor] = []  # of each parameter: matrices, sum of their factors, at how many it acted
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
                factors = [float(factor) for (of, _), factor in optimizer.limiter.items() if of == number + place]
                own = (len(factors), sum(factors), sum(factor < 1 for factor in factors))
                limiter.append(group["splits"] * _mean(p, own))
                recovered += float(whole_of(state["recovery_norm"]).double().square().sum())
    if whole == 0:
        return {}
    shares = {"bulk_share": max(0.0, 1 - core / whole) ** 0.5}
    if is_scaled:
        count, total, limited = torch.stack(limiter).sum(0).tolist()
        shares["recovery_share"] = (recovered / whole) ** 0.5
        shares["limiter"] = total / count if count else 1.0
        shares["limited_share"] = limited / count if count else 0.0
    return shares


def _mean(p: Tensor, of_some: Sequence[float]) -> Tensor:
    """What is summed over the matrices that are here, by their number: of all, which others may hold, too."""
    sums = torch.tensor([sum_over(p, number) for number in of_some], dtype=torch.float64)
    return sums / sums[0].clamp_min(1)
