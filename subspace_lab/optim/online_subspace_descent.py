"""Online Subspace Descent (arXiv 2408.12857): the basis is learned by gradient descent, too.

Legend: G (m, n), ``m <= n``; ``P (m, r)`` basis, not orthonormal; ``A = P^T G`` and O Adam's direction (r, n);
``g = G / ||G||_F``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from subspace_lab.optim.adam import adam_direction
from subspace_lab.optim.base import Group, State
from subspace_lab.optim.dealing import Decomposition
from subspace_lab.optim.low_rank import Layout, LowRankOptimizer, Turn, low_rank_moments
from subspace_lab.optim.magnitude import bounded
from subspace_lab.optim.matrices import Matrix, exact_dtype, state_dtype
from subspace_lab.optim.rules.base import top_left_space
from subspace_lab.optim.whole import WHOLE, Whole


class OnlineSubspaceDescent(LowRankOptimizer):
    """Adam on ``P^T G``, with P following an Adam step on its own objective every ``update_interval`` steps.

    After the weights' step, P descends ``||P P^T g - g||_F^2 + orthogonality ||P^T P - I||_F^2`` (online PCA)
    by one Adam step with learning rate ``basis_lr_scale lr``. Against `GaLore` there is no
    SVD after the first, and P moves continuously, so that moments keep their meaning; the paper proves convergence
    for any such motion.

    Args:
        params: Parameters or groups; a group with a ``rank`` is optimized in a subspace, one without is AdamW.
        lr: Learning rate.
        options: ``basis_lr_scale``, ``orthogonality`` and the shared ones; see `Options`. The paper moves P at every
            step: ``update_interval=1``.

    State of an m x n matrix (``m <= n``): P with its two moments (m, r) and two moments (r, n): ``3mr + 2nr`` numbers.
    A step costs two products with P, a refresh one more and some of (m, r).

    Limitations: P is orthonormal at the start only; the penalty holds it near. Adam moves every entry of P by about its
    learning rate at first, whatever the gradient of its objective. The released code has no penalty.
    """

    options = (*LowRankOptimizer.options, "basis_lr_scale", "orthogonality")

    @classmethod
    def layout(cls, m: int, n: int, group: Group, dtype: torch.dtype) -> Layout:
        """See `LowRankOptimizer.layout`."""
        r, kind = cls.effective_rank(m, group), state_dtype(group, dtype)
        basis: Layout = dict.fromkeys(("basis", "basis_exp_avg", "basis_exp_avg_sq"), ((m, r), kind))
        return {**basis, **low_rank_moments(r, n, group, dtype)}

    def _is_due(self, p: Tensor, t: int, group: Group) -> bool:
        # P moves after the step, when t is a multiple of T; not at t = 1, where it is stationary but for rounding
        return t > 1 and super()._is_due(p, t + 1, group)

    def _decomposition(self, x: Matrix, state: State, turn: Turn) -> Decomposition | None:
        if turn.t > 1:
            return None
        rank = state["exp_avg"].shape[0]
        G = x.G.to(exact_dtype(x.G.dtype))
        return Decomposition(x.lies, G, None, None, rank, lambda G, S, M: top_left_space(G, rank))  # noqa: ARG005

    def _step_matrix(self, x: Matrix, state: State, turn: Turn, index: tuple[int, int]) -> None:
        group, G, M, V, lies = turn.group, x.G, state["exp_avg"], state["exp_avg_sq"], x.lies
        if turn.t == 1:
            with self.refresh_clock:
                ready = self._bases.pop(index, None)
                first = top_left_space(G.to(exact_dtype(G.dtype)), M.shape[0]) if ready is None else ready
                state["basis"].copy_(first)
        P = state["basis"].to(G.dtype)
        (A,) = lies.to_moments((P.mT @ G).to(torch.promote_types(exact_dtype(x.part.dtype), M.dtype)))
        A = bounded(A, G.dtype, M.dtype)
        O = adam_direction(A, M, V, t=turn.t, betas=group["betas"], eps=group["eps"])
        target, beta = x.target(G.dtype, turn.decay)
        (O,) = lies.from_moments(O.to(G.dtype))
        target.addmm_(P, O, beta=beta, alpha=turn.size)
        x.finish(target, turn.decay, turn.rounding())
        if turn.is_refresh:
            with self.refresh_clock:
                _move_basis(G, A, state, turn, lies)


def _move_basis(G: Tensor, A: Tensor, state: State, turn: Turn, lies: Whole) -> None:
    """One Adam step of P down its objective; with C = g g^T its gradient is that of `basis_gradient`."""
    group = turn.group
    norm = lies.norm(G, A.dtype)
    if not bool(norm.isfinite() & (norm > 0)):  # Inf: see `bounded`
        return
    P = state["basis"].to(A.dtype)
    unit = torch.ldexp(torch.ones_like(norm), -torch.frexp(norm).exponent)  # 1 / norm but for a factor, and exact
    (A,) = lies.from_moments(A)
    (CP,) = lies.sum_columns((G @ (A.mT * unit).to(G.dtype)).to(A.dtype) * unit / (norm * unit) ** 2)
    gradient = basis_gradient(P, CP, group["orthogonality"], lies)
    direction = adam_direction(
        gradient, state["basis_exp_avg"], state["basis_exp_avg_sq"], t=turn.refresh, betas=group["betas"],
        eps=group["eps"],
    )  # fmt: skip
    state["basis"].copy_(P.sub_(direction, alpha=float(group["lr"]) * group["basis_lr_scale"]))


def basis_gradient(P: Tensor, CP: Tensor, orthogonality: float, lies: Whole = WHOLE) -> Tensor:
    """Gradient of ``||P P^T g - g||^2 + lambda ||P^T P - I||^2``.

    It is ``2 (C P P^T P + P P^T C P - 2 C P) + 4 lambda P (P^T P - I)``.

    Args:
        P: Basis (m, r).
        CP: ``C P`` (m, r) with ``C = g g^T``.
        orthogonality: lambda.
        lies: How the rows of both lie over processes.

    Returns:
        The gradient (m, r).
    """
    K, PCP = lies.sum_rows(P.mT @ P, P.mT @ CP)
    deviation = K - torch.eye(K.shape[0], dtype=K.dtype, device=K.device)
    return 2 * (CP @ K + P @ PCP - 2 * CP) + 4 * orthogonality * (P @ deviation)
