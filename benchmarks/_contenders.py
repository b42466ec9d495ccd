"""Optimizers on the linear layers of a LLaMA, ready to be stepped: ours, torch's, and those of others from PyPI."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks._packages import submodule
from subspace_lab import optim
from subspace_lab.training.presets import preset

NEVER = 10**9  # an interval that no benchmark sees the end of
Step = Callable[[], object]


@dataclass(frozen=True)
class Layers:
    """The linear layers of a model and one gradient for each, shared by all contenders.

    Attributes:
        name: Preset.
        rank: Of every layer.
        gradients: One per layer.
    """

    name: str
    rank: int
    gradients: list[Tensor]

    @classmethod
    def of(cls, name: str, rank: int, dtype: torch.dtype = torch.float32, *, blocks: int | None = None) -> Layers:
        """Layers of a preset: q, k, v, o, gate, up and down of every block, in the shapes that torch keeps them in."""
        size = preset(name)
        wide, tall = (size.hidden_size, size.intermediate_size), (size.intermediate_size, size.hidden_size)
        block = [*[(size.hidden_size, size.hidden_size)] * 4, tall, tall, wide]
        return cls.of_shapes(name, block * (size.num_layers if blocks is None else blocks), rank, dtype)

    @classmethod
    def of_shapes(
        cls, name: str, shapes: Sequence[tuple[int, ...]], rank: int, dtype: torch.dtype = torch.float32
    ) -> Layers:
        """Layers of any shapes, with gradients of noise."""
        generator = torch.Generator().manual_seed(0)
        return cls(name, rank, [(1e-3 * torch.randn(shape, generator=generator)).to(dtype) for shape in shapes])

    @property
    def work(self) -> int:
        """Sum of m n r."""
        return sum(G.numel() * self.rank for G in self.gradients)

    def parameters(self) -> list[torch.nn.Parameter]:
        """Weights of a contender's own."""
        parameters = [torch.nn.Parameter(torch.full_like(G, 0.02)) for G in self.gradients]
        for p, G in zip(parameters, self.gradients, strict=True):
            p.grad = G
        return parameters


def ours(name: str, layers: Layers, interval: int = NEVER, **options: object) -> torch.optim.Optimizer:
    """One of this package, with its own defaults."""
    group = {"params": layers.parameters(), "rank": layers.rank}
    return getattr(optim, name)([group], lr=1e-4, update_interval=interval, **options)


def torch_adamw(layers: Layers) -> torch.optim.Optimizer:
    """AdamW of torch, fused."""
    return torch.optim.AdamW(layers.parameters(), lr=1e-4, fused=True)


def galore_torch(layers: Layers, interval: int = NEVER) -> torch.optim.Optimizer:
    """The GaLore authors'."""
    group = {"params": layers.parameters(), "rank": layers.rank, "update_proj_gap": interval, "scale": 0.25}
    adamw = submodule("galore_torch", "adamw").AdamW
    return adamw([{**group, "proj_type": "std"}], lr=1e-4, no_deprecation_warning=True)


def apollo_torch(layers: Layers) -> torch.optim.Optimizer:
    """The APOLLO authors'."""
    group = {"params": layers.parameters(), "rank": layers.rank, "update_proj_gap": NEVER, "scale": 1.0}
    adamw = submodule("apollo_torch", "apollo").AdamW
    return adamw([{**group, "proj_type": "std", "proj": "random", "scale_type": "channel"}], lr=1e-4)


def pytorch_optimizers(name: str, layers: Layers) -> torch.optim.Optimizer:
    """GaLore or Fira of pytorch_optimizer."""
    group = {"params": layers.parameters(), "rank": layers.rank, "update_proj_gap": NEVER, "scale": 0.25}
    cls = getattr(importlib.import_module("pytorch_optimizer"), name)
    return cls([{**group, "projection_type": "std"}], lr=1e-4)


def bare_products(layers: Layers) -> Step:
    """What no projected method can do without: ``A = S^T G`` and ``W -= lr S A`` for every layer."""
    work = []
    for p in layers.parameters():
        turned = p.shape[0] > p.shape[1]
        W, G = (p.detach().mT, p.grad.mT) if turned else (p.detach(), p.grad)
        S = torch.linalg.qr(torch.randn(W.shape[0], layers.rank)).Q.to(W.dtype)
        work.append((W, G, S))

    def step() -> None:
        for W, G, S in work:
            W.addmm_(S, S.mT @ G, alpha=-1e-4)

    return step


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of all tensors of an optimizer's state."""
    states: Sequence[dict] = list(optimizer.state.values())
    return sum(v.nbytes for state in states for v in state.values() if isinstance(v, Tensor))
