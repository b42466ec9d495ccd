"""APOLLO (arXiv 2412.05270): the low-rank state only scales the columns of the full gradient.

Legend: G (m, n), ``m <= n``; ``P (r, m)`` Gaussian of variance 1/r; ``A = P G`` and O Adam's direction (r, n);
``s (n,)`` column factors.
"""

from __future__ import annotations

import torch

from subspace_lab.optim.adam import adam_direction
from subspace_lab.optim.base import Group, State
from subspace_lab.optim.column_norms import ColumnNorms
from subspace_lab.optim.low_rank import Layout, LowRankOptimizer, Turn, low_rank_moments
from subspace_lab.optim.matrices import Matrix, exact_dtype, squared_columns
from subspace_lab.optim.recovery import column_factors, finite_factors, largest_growth, limited_columns


class APOLLO(ColumnNorms):
    """SGD whose columns are scaled as Adam would scale them, as a random sketch of the gradient estimates it.

    ``s_j = |O_:j| / |A_:j|`` from Adam on ``A = P G``, then ``W -= lr scale G diag(s)`` with the norm of the step
    limited to grow by ``zeta`` (algorithm 1 of the paper). A random projection keeps the columns' norms, and these
    are all that is used: so P needs no SVD, no orthonormality and no memory, it is drawn again from the seed at every
    step. Against the subspace methods: the update is full-rank and the least state of all, but a
    column by itself sees plain SGD.

    ``scaling="tensor"`` has one factor for the whole matrix: with ``rank=1, scale=128 ** 0.5`` that is APOLLO-Mini (the
    released package takes ``scale=128`` and its root).

    Args:
        params: Parameters or groups; a group with a ``rank`` is optimized this way, one without is AdamW.
        lr: Learning rate.
        options: ``scaling``, ``zeta``, ``limiter`` and the shared ones; see `Options`.

    State of an m x n matrix (``m <= n``): two moments (r, n) and one number: ``2nr + 1`` numbers; no basis.
    A step costs one product with P, drawing P (m r normal numbers), and two passes over the gradient.

    Limitations: drawing P at every step costs what a tenth to a third of a product costs on a CPU; of a matrix whose
    rows are sharded every process draws all of it. Moments are kept as they are when P is drawn anew. A column that P
    misses is not updated.
    """

    options = (*LowRankOptimizer.options, "scaling", "zeta", "limiter")
    stays_at_full_rank = False

    @classmethod
    def layout(cls, m: int, n: int, group: Group, dtype: torch.dtype) -> Layout:
        """See `LowRankOptimizer.layout`."""
        moments = low_rank_moments(cls.effective_rank(m, group), n, group, dtype)
        return {**moments, "recovery_norm": ((), exact_dtype(dtype))}

    def _step_matrix(self, x: Matrix, state: State, turn: Turn, index: tuple[int, int]) -> None:
        group, G, lies = turn.group, x.G, x.lies
        M, V = state["exp_avg"], state["exp_avg_sq"]
        r = M.shape[0]
        with self.refresh_clock:
            P = lies.own_rows(turn.draw(lies.num_rows(G), r)).mT.to(device=G.device, dtype=G.dtype).div_(r**0.5)
        A = (P @ G).to(torch.promote_types(exact_dtype(x.part.dtype), M.dtype))
        A, columns = lies.to_moments(A, self._squares(index, G).to(A.dtype))
        O = adam_direction(A, M, V, t=turn.t, betas=group["betas"], eps=group["eps"])
        core = squared_columns(A)
        if group["scaling"] == "tensor":
            moved, inside = lies.sum_moments(O.square().sum(), core.sum())
            factors = finite_factors(moved / inside, G.dtype).sqrt_().expand(A.shape[1])
        else:
            factors = column_factors(columns, core, O, G.dtype).sqrt_()
        zeta = largest_growth(group, turn.t, turn.t - 1)
        scaling = limited_columns(columns, factors, zeta, state["recovery_norm"], lies)
        state["recovery_norm"].copy_(scaling.norm)
        (phi,) = lies.from_moments(scaling.phi.to(G.dtype))
        target, beta = x.target(G.dtype, turn.decay)
        if beta == 0:
            torch.mul(G, phi * turn.size, out=target)
        else:
            target.mul_(beta).addcmul_(G, phi, value=turn.size)
        x.finish(target, turn.decay, turn.rounding())
