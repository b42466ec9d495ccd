"""FRUGAL (arXiv 2411.07837): Adam on some rows, signs on the others.

Legend: G (m, n), ``m <= n``; ``indices (r,)`` rows with a state; ``A = G[indices]`` and O Adam's direction (r, n).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from subspace_lab.optim.adam import adam_direction
from subspace_lab.optim.base import Group, State
from subspace_lab.optim.low_rank import Layout, LowRankOptimizer, Turn, low_rank_moments
from subspace_lab.optim.matrices import Matrix, cast, exact_dtype


class FRUGAL(LowRankOptimizer):
    """Adam on r random rows of the gradient, signs of all others; new rows every ``update_interval`` steps.

    The projection is by coordinates: no product is needed at all and the split of the gradient is exact, so that
    nothing is lost and nothing recovered. At a refresh the state is reset, bias correction included. Against the
    subspace methods: a step costs a few passes over the gradient and no products.

    How many rows is the group's ``rank``, or, where ``density`` is given, that share of the rows of each of its
    matrices (the paper's runs: 0.25); a group still needs a rank to be optimized this way.

    Args:
        params: Parameters or groups; a group with a ``rank`` is optimized this way, one without is AdamW.
        lr: Learning rate, of both parts.
        options: ``density``, ``recovery_scale`` (factor of the state-free part) and the shared ones; see `Options`.

    State of an m x n matrix (``m <= n``): two moments (r, n) and r indices (int64): ``2nr`` numbers and ``8r`` bytes.

    Limitations: signs make entries of the state-free part move by ``lr`` whatever their gradient, noise included. The
    projection by SVD or random bases that the paper also tries is
    ``SubspaceAdam(rule="svd" or "jump", moments="reset", recovery="sign")``.
    """

    options = (*LowRankOptimizer.options, "density", "recovery_scale")

    @classmethod
    def effective_rank(cls, m: int, group: Group) -> int:
        """R of a matrix with m rows: the density's share if there is one, else the rank."""
        return super().effective_rank(m, group) if group["density"] is None else rows_of(group["density"], m)

    @classmethod
    def layout(cls, m: int, n: int, group: Group, dtype: torch.dtype) -> Layout:
        """See `LowRankOptimizer.layout`."""
        r = cls.effective_rank(m, group)
        return {"indices": ((r,), torch.int64), **low_rank_moments(r, n, group, dtype)}

    def _step_matrix(self, x: Matrix, state: State, turn: Turn, index: tuple[int, int]) -> None:  # noqa: ARG002
        group, G, M, V, lies = turn.group, x.G, state["exp_avg"], state["exp_avg_sq"], x.lies
        if turn.t == 1 or turn.is_refresh:
            with self.refresh_clock:
                state["indices"].copy_(turn.draw(1, lies.num_rows(G)).flatten().argsort()[: M.shape[0]].sort().values)
                M.zero_()
                V.zero_()
        indices: Tensor = state["indices"]
        places, rows = lies.rows_here(indices)
        A = lies.among(G[rows], places, M.shape[0])
        (A,) = lies.to_moments(cast(A, torch.promote_types(exact_dtype(x.part.dtype), M.dtype)))
        age = (turn.t - 1) % int(group["update_interval"]) + 1 if turn.refresh else turn.t
        O = adam_direction(A, M, V, t=age, betas=group["betas"], eps=group["eps"])
        step = G.sign().mul_(turn.size * group["recovery_scale"])
        (O,) = lies.from_moments(cast(O.mul_(turn.size), step.dtype))
        step[rows] = O if places is None else O[places]
        target, beta = x.target(G.dtype, turn.decay)
        if beta == 0:
            target = step
        else:
            torch.add(step, target, alpha=beta, out=target)
        x.finish(target, turn.decay, turn.rounding())


def rows_of(density: float, m: int) -> int:
    """How many of m rows a share is, at least 1: rounded up, but not for the rounding of the product.

    Args:
        density: Share, in (0, 1].
        m: Number of rows.

    Returns:
        The number.

    >>> rows_of(0.07, 100), rows_of(0.071, 100), rows_of(1e-9, 100)
    (7, 8, 1)
    """
    rows, nearest = density * m, round(density * m)
    return nearest if math.isclose(rows, nearest, rel_tol=1e-12) else math.ceil(rows)
