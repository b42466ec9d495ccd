"""Minimizing Ackley's function in subspaces: how the rule for the basis fares where the slope misleads.

SubTrack++ (arXiv 2502.01586, Fig. 6) shows trajectories of tracking and of GaLore's SVD on Ackley's function: 100
steps, a refresh every 10, scale factors 1 and 3. What it says of them: with scale 1 GaLore makes abrupt jumps and does
not reach the minimum; with scale 3 it does, by longer jumps; tracking is robust. Known to us is that figure's text
only, from a transcript; dimensions, rank, learning rate and starting points are not in it. **Those are chosen here**:
the coordinates of one Ackley function are the entries of a 16 x 16 matrix, the rank is m/4, and every seed draws its
own starting point. So this asks the paper's question in a setting of our own; it does not repeat its trajectories.

A scale factor multiplies the learning rate and does nothing else: two scales are two learning rates. That is why
neighbouring scales are measured too, full-rank AdamW included.

A basis that is never refreshed (frozen) is the null of every rule: alone for the SVD and for tracking alone, with
transport and recovery for the others.

Legend: W (m, m) the matrix; d = m^2 its entries; r rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from subspace_lab import optim

SCALES = (0.3, 1.0, 3.0, 10.0)  # the paper's are 1 and 3
_ALONE: dict[str, Any] = {"moments": "keep", "recovery": "none"}  # as GaLore, but for the rule
_WHOLE: dict[str, Any] = {"moments": "transport", "recovery": "scaled"}  # as SubTrack, GrassWalk and GrassJump
_REACH = 5.0  # starting points are uniform in a cube from -5 to 5

Make = Callable[..., torch.optim.Optimizer]
METHODS: dict[str, tuple[Make, dict[str, Any]]] = {
    "GaLore (SVD)": (optim.GaLore, {}),
    "tracking alone": (optim.SubspaceAdam, {"rule": "track", **_ALONE}),
    "frozen alone": (optim.SubspaceAdam, {"rule": "frozen", **_ALONE}),
    "frozen": (optim.SubspaceAdam, {"rule": "frozen", **_WHOLE}),
    "SubTrack": (optim.SubTrack, {}),
    "GrassWalk": (optim.GrassWalk, {}),
    "GrassJump": (optim.GrassJump, {}),
}
FULL_RANK = "AdamW"


def ackley(W: Tensor) -> Tensor:
    """Ackley's function of all entries of a matrix: one deep minimum, 0 at the origin, among many shallow ones.

    ``20 + e - 20 exp(-0.2 sqrt(mean w^2)) - exp(mean cos(2 pi w))``: nearly flat far out, with a minimum near every
    point of whole coordinates.

    Args:
        W: Any shape.

    Returns:
        A scalar, at least 0.

    >>> round(float(ackley(torch.zeros(2, 2))), 5), round(float(ackley(torch.ones(2, 2))), 3)
    (0.0, 3.625)
    """
    bowl = 20 * torch.exp(-0.2 * W.square().mean().sqrt())
    return 20 + math.e - bowl - torch.exp(torch.cos(2 * math.pi * W).mean())


def measure(
    *,
    scales: Iterable[float] = SCALES,
    num_seeds: int = 8,
    steps: int = 100,
    size: int = 16,
    rank: int = 4,
    lr: float = 1.0,
    update_interval: int = 10,
) -> pd.DataFrame:
    """Minimize Ackley's function with every method, at every scale, from several starting points.

    Args:
        scales: Scale factors; each multiplies the learning rate.
        num_seeds: Starting points, the same for all methods and scales; the seed also draws walks and jumps.
        steps: Optimizer steps.
        size: Rows m and columns of the matrix.
        rank: Rank r of the subspaces.
        lr: Learning rate, before the scale.
        update_interval: Steps from refresh to refresh.

    Returns:
        One row per method, scale, seed and step: method, scale, seed, step (0 is the start), value, move (Frobenius
        norm of the change of W that led there; NaN at the start).

    Raises:
        ValueError: If there is no scale, seed or step, or the rank exceeds the size.
    """
    scales = tuple(scales)
    if not scales or min(num_seeds, steps, rank) < 1:
        raise ValueError(
            f"at least one scale, seed and step and a rank of 1 are needed, got scales={scales}, "
            f"num_seeds={num_seeds}, steps={steps}, rank={rank}"
        )
    if rank > size:
        raise ValueError(f"rank {rank} is larger than the matrix, which has {size} rows; give a larger size")
    common = {"rank": rank, "update_interval": update_interval}
    return pd.concat(
        [
            _descent(method, scale, seed, steps, size, lr, common)
            for method in (*METHODS, FULL_RANK)
            for scale in scales
            for seed in range(num_seeds)
        ],
        ignore_index=True,
    )


def _descent(
    method: str, scale: float, seed: int, steps: int, size: int, lr: float, common: dict[str, int]
) -> pd.DataFrame:
    W = starting_point(size, seed).requires_grad_()
    optimizer = _optimizer(method, W, lr, scale, seed, common)
    values, moves = [], [math.nan]
    for _ in range(steps):
        optimizer.zero_grad()
        value = ackley(W)
        value.backward()  # type: ignore[no-untyped-call]
        before = W.detach().clone()
        optimizer.step()
        values.append(value.item())
        moves.append((W.detach() - before).norm().item())
    values.append(ackley(W.detach()).item())
    return pd.DataFrame({
        "method": method, "scale": scale, "seed": seed, "step": range(steps + 1), "value": values, "move": moves,
    })  # fmt: skip


def starting_point(size: int, seed: int) -> Tensor:
    """Where a seed starts.

    Args:
        size: Rows and columns.
        seed: The seed.

    Returns:
        A matrix (size, size), float64, uniform between -5 and 5.
    """
    generator = torch.Generator().manual_seed(seed)
    return _REACH * (2 * torch.rand(size, size, generator=generator, dtype=torch.float64) - 1)


def _optimizer(
    method: str, W: Tensor, lr: float, scale: float, seed: int, common: dict[str, int]
) -> torch.optim.Optimizer:
    if method == FULL_RANK:
        return torch.optim.AdamW([W], lr=lr * scale, weight_decay=0.0)
    make, options = METHODS[method]
    groups = [{"params": [W], "rank": common["rank"]}]
    return make(groups, lr=lr, scale=scale, seed=seed, update_interval=common["update_interval"], **options)
