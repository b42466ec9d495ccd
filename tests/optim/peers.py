"""Optimizers of other packages from PyPI, built so that `trajectories.fast` can drive them beside ours.

What an algorithm draws at random, and the signs that an SVD leaves open, are taken from our run (``bases``). Where a
peer departs from the paper that it implements, the departure can be removed, one by one and nothing else with it; they
are named in `DEPARTURES`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any

import badam as badam_package
import numpy as np
import pytorch_optimizer
import torch
from pytorch_optimizer.optimizer.utils.galore import GaLoreProjector
from torch.optim import Optimizer

from benchmarks._packages import submodule

DEPARTURES = {
    "eps": "added to sqrt(V) before the bias correction, so that it counts as eps / sqrt(1 - b2^t)",
    "timing": "refreshes at the first step and then when t, counted from 1, is a multiple of T: a step early",
    "limiter": "limits the norm of the step before bias correction, over the last norm plus 1e-8",
    "first block": "leaves the first block (BAdam) after T - 1 steps, the others after T",
}
LIMIT, ADDED = 1.01, 1e-8  # what the peers' limiter has in place of zeta, and what it adds to norms


def galore_torch(groups: list[dict], *, removed: Collection[str] = (), **settings: Any) -> Optimizer:
    """GaLore by its authors (galore-torch)."""
    projector = submodule("galore_torch", "galore_projector").GaLoreProjector
    adamw = submodule("galore_torch", "adamw").AdamW
    return _built(adamw, projector, "proj_type", groups, {"no_deprecation_warning": True}, removed, **settings)


def apollo_torch(
    groups: list[dict],
    *,
    removed: Collection[str] = (),
    scaling: str = "channel",
    limited: bool = True,
    **settings: Any,
) -> Optimizer:
    """APOLLO by its authors (apollo-torch); ``scale`` is the square of ours."""
    projector = submodule("apollo_torch", "random_projector").GradientProjector
    adamw = submodule("apollo_torch", "apollo").AdamW
    groups = [{**group, "proj": "random", "scale_type": scaling} for group in groups]
    return _built(adamw, projector, "proj_type", groups, {"disable_nl": not limited}, removed, **settings)


def pytorch_optimizer_galore(groups: list[dict], *, removed: Collection[str] = (), **settings: Any) -> Optimizer:
    """GaLore of pytorch_optimizer."""
    cls = pytorch_optimizer.GaLore
    return _built(cls, GaLoreProjector, "projection_type", groups, {}, removed, **settings)


def pytorch_optimizer_fira(groups: list[dict], *, removed: Collection[str] = (), **settings: Any) -> Optimizer:
    """Fira of pytorch_optimizer."""
    cls = pytorch_optimizer.Fira
    return _built(cls, GaLoreProjector, "projection_type", groups, {}, removed, **settings)


def badam(
    named: list[tuple[str, torch.nn.Parameter]],
    *,
    order: Sequence[Sequence[str]],
    update_interval: int,
    removed: Collection[str] = (),
    **settings: Any,
) -> Optimizer:
    """BAdam by its authors (badam) around torch's AdamW, with blocks by their prefixes in a given order."""
    base = torch.optim.AdamW([p for _, p in named], **settings)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "BAdam expect model to be loaded in fp16/bf16")
        optimizer = badam_package.BlockOptimizer(
            base, named, [list(block) for block in order], update_interval, switch_mode="ascending", verbose=0
        )
    if "first block" in removed:
        optimizer.global_step = -1
    return optimizer


def _built(
    cls: Callable[..., Optimizer],
    projector: Callable[..., Any],
    side_option: str,
    groups: list[dict],
    more: dict,
    removed: Collection[str],
    *,
    update_interval: int,
    scale: float,
    bases: Sequence[np.ndarray] | None = None,
    side: str = "std",
    **settings: Any,
) -> Optimizer:
    (group,) = groups
    options = {"update_proj_gap": update_interval, "scale": scale, side_option: side}
    optimizer = cls([{**group, **options}], **settings, **more)
    its_own = projector(group["rank"], **options)
    optimizer.state[group["params"][0]]["projector"] = its_own
    its_own.found = []
    _follow(its_own, bases)
    if "timing" in removed:
        project = its_own.project
        its_own.project = lambda grad, t: project(grad, t - 1)
    if "eps" in removed:
        eps, b2 = settings["eps"], settings["betas"][1]
        scheduled(optimizer, "eps", lambda t: eps * math.sqrt(1 - b2**t))
    return optimizer


def _follow(projector: Any, bases: Sequence[np.ndarray] | None) -> None:
    """Remember the bases that a projector finds by itself, and give it others in their place, if there are any."""
    find, given = projector.get_orthogonal_matrix, None if bases is None else iter(bases)

    def found(*arguments: Any, **keywords: Any) -> torch.Tensor:
        its_own = find(*arguments, **keywords)
        projector.found.append(its_own)
        if given is None:
            return its_own
        basis = torch.from_numpy(next(given)).to(its_own.dtype)
        return basis if basis.shape == its_own.shape else basis.T

    projector.get_orthogonal_matrix = found


def scheduled(optimizer: Optimizer, option: str, value: Callable[[int], float]) -> None:
    """Set an option before every step t, counted from 1."""
    steps = iter(range(1, 1 << 30))

    def before(optimizer: Optimizer, *_: object) -> None:
        t = next(steps)
        for group in optimizer.param_groups:
            group[option] = value(t)

    optimizer.register_step_pre_hook(before)


def limit_exactly_as_the_peers_do(optimizer: Optimizer) -> Optimizer:
    """Give one of ours with ``limiter="before_bias_correction"`` what the peers add to the norm that they compare with.

    Theirs are norms of ``L / c_t`` with ``c_t = sqrt(1 - b2^t) / (1 - b1^t)``.
    """
    (group,) = optimizer.param_groups
    (b1, b2), state = group["betas"], optimizer.state[group["params"][0]]

    def zeta(t: int) -> float:
        if t == 1:
            return LIMIT
        last = math.sqrt(1 - b2 ** (t - 1)) / (1 - b1 ** (t - 1))
        return LIMIT * (1 + ADDED * last / float(state["recovery_norm"]))

    scheduled(optimizer, "zeta", zeta)
    return optimizer
