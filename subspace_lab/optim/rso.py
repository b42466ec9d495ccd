"""Randomized Subspace Optimization (arXiv 2502.07222): a sequence of small problems.

Legend: G (m, n), ``m <= n``; ``P (m, r)`` Gaussian of variance 1/r; ``B (r, n)`` variable of the small problem.
"""

from __future__ import annotations

import torch

from subspace_lab.optim.adam import adam_direction
from subspace_lab.optim.base import Group, State
from subspace_lab.optim.low_rank import Layout, LowRankOptimizer, Turn, low_rank_moments
from subspace_lab.optim.magnitude import bounded
from subspace_lab.optim.matrices import Matrix, exact_dtype, state_dtype


class RSO(LowRankOptimizer):
    """Adam on ``min_B f(W + P B) + ||B||^2 / (2 prox)``; every ``update_interval`` steps a new P, from B = 0.

    The weights always hold ``W + P B`` (algorithm 1 of the paper). Every small problem starts Adam from zero: no
    moments in directions that are gone. The paper also saves activations, since the gradient of B needs only ``P^T
    x``; an optimizer sees the whole gradient and cannot.

    Args:
        params: Parameters or groups; a group with a ``rank`` is optimized in a subspace, one without is AdamW.
        lr: Learning rate of B.
        options: ``prox`` (eta; None leaves the proximal term out) and the shared ones; see `Options`.

    State of an m x n matrix (``m <= n``): two moments and B, all (r, n): ``3nr`` numbers; no basis.
    A step costs two products with P and drawing P (m r normal numbers).

    Limitations: P is drawn again from the seed at every step, which a CPU feels; of a matrix whose rows are sharded
    every process draws all of it. Within one small problem only r of m directions move, and without a proximal term B
    is kept but not used.
    """

    options = (*LowRankOptimizer.options, "prox")
    stays_at_full_rank = False

    @classmethod
    def layout(cls, m: int, n: int, group: Group, dtype: torch.dtype) -> Layout:
        """See `LowRankOptimizer.layout`."""
        r = cls.effective_rank(m, group)
        return {**low_rank_moments(r, n, group, dtype), "coordinates": ((r, n), state_dtype(group, dtype))}

    def _step_matrix(self, x: Matrix, state: State, turn: Turn, index: tuple[int, int]) -> None:  # noqa: ARG002
        group, G, B, lies = turn.group, x.G, state["coordinates"], x.lies
        M, V, r = state["exp_avg"], state["exp_avg_sq"], B.shape[0]
        if turn.is_refresh:
            for tensor in (B, M, V):
                tensor.zero_()
        with self.refresh_clock:
            P = lies.own_rows(turn.draw(lies.num_rows(G), r)).to(device=G.device, dtype=G.dtype).div_(r**0.5)
        (A,) = lies.to_moments((P.mT @ G).to(torch.promote_types(exact_dtype(x.part.dtype), M.dtype)))
        A = bounded(A, G.dtype, M.dtype)
        if group["prox"] is not None:
            A.add_(B, alpha=1 / group["prox"])
        age = (turn.t - 1) % int(group["update_interval"]) + 1
        O = adam_direction(A, M, V, t=age, betas=group["betas"], eps=group["eps"])
        B.add_(O, alpha=turn.size)
        target, beta = x.target(G.dtype, turn.decay)
        (O,) = lies.from_moments(O.to(G.dtype))
        target.addmm_(P, O, beta=beta, alpha=turn.size)
        x.finish(target, turn.decay, turn.rounding())
