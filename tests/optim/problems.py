"""Small problems whose solutions are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Loss = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Problem:
    """A loss of one matrix.

    Attributes:
        start: Where training starts.
        loss: Of the matrix and the step (which chooses the batch, where there is one).
        excess: How far a matrix is from the solution, in units of the start: 1 at the start, 0 at the solution.
        steps: How long to train.
    """

    start: Tensor
    loss: Loss
    excess: Callable[[Tensor], float]
    steps: int


def quadratic() -> Problem:
    """``tr(E^T H E) / 2`` with eigenvalues of H from 1 to 0.01 in a random rotation."""
    generator = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(12, 12, generator=generator)).Q
    H = Q * torch.logspace(0, -2, 12) @ Q.T
    solution = torch.randn(12, 16, generator=generator)

    def loss(W: Tensor, step: int = 0) -> Tensor:
        E = W - solution
        return (E * (H @ E)).sum() / 2

    start = torch.zeros(12, 16)
    return Problem(start, loss, lambda W: float(loss(W) / loss(start)), 500)


def rosenbrock() -> Problem:
    """Twelve Rosenbrock functions in one (4, 6) matrix, each from a start of its own around the classical (-1.2, 1)."""

    def loss(W: Tensor, step: int = 0) -> Tensor:
        x, y = W[0::2], W[1::2]
        return (100 * (y - x**2) ** 2 + (1 - x) ** 2).sum()

    start = torch.tensor([[-1.2], [1.0]] * 2) + 0.3 * torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    return Problem(start, loss, lambda W: float(loss(W) / loss(start)), 1500)


def regression() -> Problem:
    """A matrix of rank 2 from noisy products with random vectors, a batch of 32 at a time."""
    generator = torch.Generator().manual_seed(0)
    solution = torch.randn(10, 2, generator=generator) @ torch.randn(2, 14, generator=generator) / math.sqrt(2)

    def loss(W: Tensor, step: int) -> Tensor:
        batch = torch.Generator().manual_seed(step)
        X = torch.randn(32, 14, generator=batch)
        noise = 0.1 * torch.randn(32, 10, generator=batch)
        return (X @ (W - solution).T - noise).square().mean()

    start = torch.zeros(10, 14)
    size = solution.square().sum()
    return Problem(start, loss, lambda W: float((W - solution).square().sum() / size), 500)


PROBLEMS = {"quadratic": quadratic, "rosenbrock": rosenbrock, "regression": regression}


def train(problem: Problem, build: Callable[[list[dict]], torch.optim.Optimizer], rank: int) -> Tensor:
    """Train by an optimizer with a learning rate that falls to zero along a cosine."""
    p = torch.nn.Parameter(problem.start.clone())
    optimizer = build([{"params": [p], "rank": rank}])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, problem.steps)
    for step in range(problem.steps):
        optimizer.zero_grad()
        problem.loss(p, step).backward()
        optimizer.step()
        schedule.step()
    return p.detach()
