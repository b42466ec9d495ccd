"""BAdam, block coordinate descent with Adam inside (arXiv 2404.02827, algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from subspace_lab.optim.reference.arrays import Array, adam


def badam(
    parameters: Sequence[Array],
    gradients: Sequence[Sequence[Array]],
    *,
    lr: float,
    blocks: Sequence[int],
    order: Callable[[int], Sequence[int]],
    update_interval: int = 100,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> list[list[Array]]:
    """K Adam steps from zero on one block of parameters, then on the next; an epoch visits every block once.

    Args:
        parameters: All matrices.
        gradients: Of every step, one per matrix.
        lr: Learning rate.
        blocks: Block of each matrix, 0 ... D-1.
        order: Order of the blocks in an epoch.
        update_interval: K.
        betas: Adam's decay rates.
        eps: Adam's eps.
        weight_decay: Decoupled, of the active block.

    Returns:
        All matrices after every step.
    """
    current, trajectory, num_blocks = list(parameters), [], len(set(blocks))
    for t, step in enumerate(gradients, start=1):
        turn, since = divmod(t - 1, update_interval)
        if since == 0:
            active = order(turn // num_blocks)[turn % num_blocks]
            moments = {i: (np.zeros_like(W), np.zeros_like(W)) for i, W in enumerate(current) if blocks[i] == active}
        for i, (M, V) in list(moments.items()):
            M, V, O = adam(step[i], M, V, t=since + 1, betas=betas, eps=eps)
            moments[i] = M, V
            current[i] = (1 - lr * weight_decay) * current[i] - lr * O
        trajectory.append(list(current))
    return trajectory
