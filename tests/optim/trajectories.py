"""Fixed gradients, the fast optimizers driven by them, and the same for the references."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from subspace_lab.optim.random import normal_draw

STEPS = 20
LR = 0.01
SHAPES = {"tall": (18, 11), "wide": (10, 17), "square": (12, 12)}


def weights(shape: tuple[int, int], seed: int = 0) -> Tensor:
    """A matrix that float32 holds exactly, in float64."""
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(1000 + seed)).double()


def drifting(shape: tuple[int, int], steps: int = STEPS, seed: int = 0) -> list[Tensor]:
    """Gradients of a slowly turning low-rank part, well apart singular values, and noise; float32 holds them."""
    generator = torch.Generator().manual_seed(seed)
    rows, cols = shape
    k = min(rows, cols)
    left, left2 = (torch.linalg.qr(torch.randn(rows, k, generator=generator)).Q for _ in range(2))
    right = torch.linalg.qr(torch.randn(cols, k, generator=generator)).Q
    sizes = 0.7 ** torch.arange(k)
    gradients = []
    for t in range(steps):
        turned = torch.linalg.qr(left + 0.03 * t * left2).Q
        noise = 0.05 * torch.randn(rows, cols, generator=generator)
        gradients.append((turned * sizes @ right.T + noise).float().double())
    return gradients


@dataclass
class Run:
    """What a fast optimizer did with one matrix: the matrix after every step, and its basis where it has one."""

    steps: list[np.ndarray] = field(default_factory=list)
    bases: list[np.ndarray] = field(default_factory=list)
    optimizer: torch.optim.Optimizer | None = None


def fast(
    build: Callable[[list[dict]], torch.optim.Optimizer],
    W: Tensor,
    gradients: Sequence[Tensor],
    *,
    rank: int | None,
    dtype: torch.dtype = torch.float64,
) -> Run:
    """Drive an optimizer through fixed gradients."""
    p = torch.nn.Parameter(W.to(dtype, copy=True))
    run = Run(optimizer=build([{"params": [p], "rank": rank}]))
    for G in gradients:
        p.grad = G.to(dtype, copy=True)
        run.optimizer.step()
        run.steps.append(p.detach().double().numpy().copy())
        if (
            "basis" in run.optimizer.state[p] and run.optimizer.state[p]["step"] > 0
        ):  # of zeros before the first gradient
            run.bases.append(run.optimizer.state[p]["basis"].double().numpy().copy())
    return run


def draws(m: int, r: int, *piece: int) -> Callable[[int], np.ndarray]:
    """The normal matrices that the first parameter of an optimizer draws, or a piece of it."""
    return lambda refresh: normal_draw(0, 0, refresh, *piece)(m, r).double().numpy()


def distance(steps: Sequence[np.ndarray], expected: Sequence[np.ndarray], start: Tensor) -> float:
    """Largest difference of two trajectories over the way that was travelled until then."""
    assert len(steps) == len(expected)
    moved = [max(np.linalg.norm(b - start.numpy()), 1e-300) for b in expected]
    return max(np.linalg.norm(a - b) / way for a, b, way in zip(steps, expected, moved, strict=True))


def rounding_bound(
    reference: Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]],
    gradients: Sequence[Tensor],
    start: Tensor,
    dtype: torch.dtype = torch.float32,
) -> float:
    """How far float32 (or bfloat16) may be from the exact trajectory, relative to the way travelled.

    An entry of ``A = S^T G`` comes out with an error of about one unit roundoff u of ``|G_:j|``, as if the column had
    been another one that differs by u in relative norm; the same goes for rows on the other side. So the exact one
    is run again on gradients perturbed at random by that much, and what the worst of five does to the trajectory is how
    sensitive it is. To that comes the rounding of the weights themselves at every step, u |W| each, in random
    directions. The bound is four times the sum: constants, and rounding is not normally distributed.
    """
    u, generator = float(torch.finfo(dtype).eps) / 2, np.random.default_rng(0)
    exact = [G.numpy() for G in gradients]
    expected = reference(exact)
    sensitivity = max(
        distance(reference([G + u * _rms(G) * generator.standard_normal(G.shape) for G in exact]), expected, start)
        for _ in range(5)
    )
    weights = max(
        np.sqrt(t) * u * np.linalg.norm(W) / max(np.linalg.norm(W - start.numpy()), 1e-300)
        for t, W in enumerate(expected, start=1)
    )
    return 4 * (sensitivity + weights)


def _rms(G: np.ndarray) -> np.ndarray:
    """Root mean square of the rows and columns that every entry belongs to, the larger of the two."""
    return np.maximum(np.sqrt((G**2).mean(0, keepdims=True)), np.sqrt((G**2).mean(1, keepdims=True)))
