"""Times of an optimizer's ordinary step and of a refresh, without waiting for the first bases."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch

from benchmarks._contenders import NEVER, Layers, apollo_torch, galore_torch, ours, torch_adamw
from benchmarks._measure import alternate
from subspace_lab.optim.rules import Frozen, Jump, Power, Svd, Track, Walk

Make = Callable[[Layers, int], torch.optim.Optimizer]
ADAMW = "AdamW (torch, fused)"


def _ours(name: str) -> Make:
    return lambda layers, interval: ours(name, layers, **({} if name == "LDAdam" else {"interval": interval}))


CONTENDERS: dict[str, Make] = {
    ADAMW: lambda layers, _: torch_adamw(layers),
    **{
        name: _ours(name)
        for name in ("GaLore", "LDAdam", "SubTrack", "Fira", "APOLLO", "BAdam", "GrassWalk", "GrassJump")
    },
    "galore-torch": galore_torch,
    "apollo-torch": lambda layers, _: apollo_torch(layers),
}
REFRESHING = ("GaLore", "SubTrack", "Fira", "GrassWalk", "GrassJump", "galore-torch")


@contextmanager
def random_first_bases() -> Iterator[None]:
    """First bases are drawn instead of decomposed: the times of later steps do not depend on them."""

    def drawn(matrix: torch.Tensor, full_matrices: bool = True) -> tuple[torch.Tensor, ...]:  # noqa: ARG001
        small = min(matrix.shape)
        left, right = (torch.linalg.qr(torch.randn(n, small, dtype=matrix.dtype)).Q for n in matrix.shape)
        return left, torch.ones(small, dtype=matrix.dtype), right.mT

    with ExitStack() as patches:
        for rule in (Frozen, Power, Svd, Track, Walk):
            patches.enter_context(mock.patch.object(rule, "first", Jump.first))
        patches.enter_context(mock.patch.object(torch.linalg, "svd", drawn))
        yield


def stepping(contenders: Mapping[str, Make], layers: Layers, rounds: int) -> dict[str, list[float]]:
    """Seconds of steps between refreshes, contender after contender in every round."""
    steps = {}
    with random_first_bases():
        for name, make in contenders.items():
            steps[name] = make(layers, NEVER).step
            steps[name]()
    return alternate(steps, rounds)


def refresh_seconds(make: Make, layers: Layers, repeats: int) -> float:
    """What a refresh of all layers adds to a step, each shape timed by itself and counted as often as it is there."""
    total = 0.0
    for shape, number in Counter(tuple(G.shape) for G in layers.gradients).items():
        one = Layers.of_shapes(layers.name, [shape], layers.rank)
        medians = []
        for interval in (NEVER, 1):
            optimizer = make(one, interval)
            with random_first_bases():
                optimizer.step()
            optimizer.step()
            medians.append(statistics.median(_timed(optimizer.step) for _ in range(repeats)))
        total += number * max(0.0, medians[1] - medians[0])
    return total


def _timed(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
