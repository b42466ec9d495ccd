"""How far weights are after 24 steps of released code and of ours, with one departure left in and the others removed.

Packages from PyPI are run as they are; of code that is not on PyPI there are literal twins (`benchmarks._released`).
The number is the distance between the weights at the end, over the distance that ours have come from where they began,
in float64. Signs and random draws are those of our run. Rounding, and an eps of 1e-8 before or after the bias
correction, are below 2e-5.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks import _released as released
from subspace_lab import optim
from tests.optim import peers
from tests.optim.trajectories import LR, SHAPES, Run, distance, draws, drifting, fast, weights

STEPS, RANK, INTERVAL = 24, 4, 7
COMMON: dict[str, Any] = {"lr": LR, "update_interval": INTERVAL, "betas": (0.9, 0.999), "eps": 1e-8}
BEFORE = {"limiter": "before_bias_correction"}
Trajectory = Sequence[np.ndarray]


def gradients(name: str, size: float = 1.0) -> list[torch.Tensor]:
    """Gradients of a shape, of a slowly turning low-rank part and noise."""
    return [size * G for G in drifting(SHAPES[name], STEPS)]


def run(build: Any, name: str, *, size: float = 1.0, rank: int = RANK, **settings: Any) -> Run:
    """One of ours, or a package, on these gradients."""
    return fast(
        functools.partial(build, **{**COMMON, **settings}), weights(SHAPES[name]), gradients(name, size), rank=rank
    )


def twin(algorithm: Any, name: str, **settings: Any) -> Trajectory:
    """A literal twin on these gradients."""
    start, exact = weights(SHAPES[name]).numpy(), [G.numpy() for G in gradients(name)]
    result: Trajectory = algorithm(start, exact, lr=LR, rank=RANK, **settings)
    return result


def apart(name: str, theirs: Trajectory, ours: Trajectory) -> float:
    """Distance at the end over the way that ours have come."""
    return float(distance(theirs[-1:], ours[-1:], weights(SHAPES[name])))


def left(name: str) -> str:
    """The packages' name of our side: they project square matrices from the right."""
    return "left" if name == "square" else "std"


def right(name: str) -> dict[str, str]:
    """Their side of a square matrix as an option of ours."""
    return {"side": "right"} if name == "square" else {}


# --- GaLore and its relatives ----------------------------------------------------------------------------------------


def galore(name: str, *, removed: Sequence[str], side: str | None = None, size: float = 1.0, **settings: Any) -> float:
    """galore-torch with one departure, against GaLore."""
    ours = run(optim.GaLore, name, size=size, **settings)
    beside = ours if side is None else run(optim.GaLore, name, size=size, **right(name), **settings)
    theirs = run(
        peers.galore_torch, name, size=size, side=side or left(name), scale=0.25, bases=beside.bases[::INTERVAL],
        removed=removed, **settings,
    )  # fmt: skip
    return apart(name, theirs.steps, ours.steps)


def golore(name: str) -> float:
    ours = run(optim.GoLore, name, random_after=14, **right(name))
    theirs = twin(released.golore, name, scale=0.25, like=ours.bases, update_interval=INTERVAL, **right(name))
    return apart(name, theirs, ours.steps)


def online(name: str, **settings: Any) -> float:
    """Online Subspace Descent's code, against ours with the same learning rate of the basis unless settings differ."""
    mapped = {"basis_lr_scale": 1 / 200 / LR, "orthogonality": 0.0}
    ours = run(optim.OnlineSubspaceDescent, name, update_interval=1, **{**mapped, **settings})
    return apart(name, twin(released.online_subspace_descent, name, like=ours.bases), ours.steps)


def penalty(name: str) -> float:
    with_, without = (
        run(optim.OnlineSubspaceDescent, name, update_interval=1, **more) for more in ({}, {"orthogonality": 0.0})
    )
    return apart(name, without.steps, with_.steps)


# --- recovery --------------------------------------------------------------------------------------------------------


def fira(name: str, *, alpha: float, **settings: Any) -> float:
    """The authors' Fira at an alpha, against Fira with the scale of the same value."""
    ours = run(optim.Fira, name, scale=alpha, **settings)
    eps = settings.get("eps", 1e-8)
    return apart(name, twin(released.fira, name, like=ours.bases, alpha=alpha, eps=eps), ours.steps)


def fira_of_pytorch_optimizer(name: str) -> float:
    ours = run(optim.Fira, name, scale=1.0, **BEFORE)
    theirs = run(
        peers.pytorch_optimizer_fira, name, side=left(name), scale=1.0, bases=ours.bases[::INTERVAL], removed=["eps"]
    )
    return apart(name, theirs.steps, ours.steps)


def apollo(name: str, *, removed: Sequence[str] = (), ours: Any = None, size: float = 1.0, **settings: Any) -> float:
    """apollo-torch with one departure, against APOLLO with the options in ``ours``."""
    side = {"side": "right"} if name == "square" else {}
    mine = run(optim.APOLLO, name, size=size, **{**side, **BEFORE, **settings, **(ours or {})})
    bases = [draws(min(SHAPES[name]), RANK)(refresh) / RANK**0.5 for refresh in range(4)]
    theirs = run(peers.apollo_torch, name, size=size, bases=bases, scale=1.0, removed=removed, **settings)
    return apart(name, theirs.steps, mine.steps)


def subtrack(name: str, *, ours: Any, scale: float = 1.0, **theirs: Any) -> float:
    """SubTrack++'s code, against a combination of ours."""
    settings = {"rule": "track", "moments": "keep", "recovery": "scaled", "step_size": 1.0, **BEFORE, **ours}
    if settings["rule"] != "track":
        del settings["step_size"]
    mine = run(optim.SubspaceAdam, name, scale=scale, **right(name), **settings)
    geodesic = {"update_interval": INTERVAL, "step_size": 1.0, "scale": scale}
    with_ = twin(released.subtrack, name, first=mine.bases[0], **geodesic, **theirs)
    return apart(name, with_, mine.steps)


# --- rows and blocks -------------------------------------------------------------------------------------------------


def frugal(name: str) -> float:
    """As many rows as ``int`` leaves of the density, against ours."""
    ours = run(optim.FRUGAL, name, density=0.25)
    rows = int(0.25 * min(SHAPES[name]))
    return apart(name, run(optim.FRUGAL, name, rank=rows).steps, ours.steps)


def in_blocks(build: Callable[[list[Any]], torch.optim.Optimizer]) -> dict[str, np.ndarray]:
    """What every parameter of a small model was moved by, in float32: the released BAdam knows nothing else."""
    names = [*(f"layers.{i}.q.weight" for i in range(3)), "embed_tokens.weight", "lm_head.weight"]
    named = [(name, torch.nn.Parameter(weights((6, 9), i).float())) for i, name in enumerate(names)]
    all_gradients = [drifting((6, 9), STEPS, i) for i in range(len(names))]
    optimizer = build(named)
    for t in range(STEPS):
        for (_, p), G in zip(named, all_gradients, strict=True):
            p.grad = G[t].float() if p.requires_grad else None
        optimizer.step()
    return {name: (p.detach().double() - weights((6, 9), i)).numpy() for i, (name, p) in enumerate(named)}


def badam(_: str, *, outside: bool) -> float:
    """The released BAdam against ours with the same order of blocks: of the first block, or of the embedding."""
    active: list[str] = []
    settings = {"lr": LR, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}

    def ours(named: list[Any]) -> torch.optim.Optimizer:
        kept = named if outside else named[:3]
        optimizer = optim.BAdam([{"params": kept, "rank": 1}], update_interval=4, **settings)
        optimizer.register_step_pre_hook(lambda optimizer, *_: active.append(optimizer.active_block()))
        return optimizer

    mine = in_blocks(ours)
    order = [[f"{block}."] for block in active[::4] if block.startswith("layers.")]
    theirs = in_blocks(functools.partial(peers.badam, order=order, update_interval=4, **settings))
    name = "embed_tokens.weight" if outside else f"{active[0]}.q.weight"
    return float(np.linalg.norm(theirs[name] - mine[name]) / np.linalg.norm(mine[name]))
