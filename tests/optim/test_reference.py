"""Every fast path against the literal algorithms, over 20 steps and their refreshes."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from subspace_lab import optim
from subspace_lab.optim.orientation import ALONG_ROWS
from subspace_lab.optim.reference import bases
from subspace_lab.optim.reference.cells import subspace_adam
from subspace_lab.optim.reference.grass import grasswalk
from tests.optim.trajectories import LR, SHAPES, Run, distance, draws, drifting, fast, rounding_bound, weights

EXACT = 1e-9
RULES = (
    "svd",
    "frozen",
    "jump",
    "walk",
    "hybrid",
    "track",
    "power",
    "golore",
    "coordinates",
    "trig",
    "trig_walk",
    "dct",
)
MOMENTS = ("keep", "reset", "transport")
RECOVERIES = ("none", "scaled", "sign", "feedback", "residual")
RULE_SETTINGS: dict[str, dict[str, Any]] = {
    "walk": {"walk_step": 0.2},
    "hybrid": {"walk_step": 0.2, "jump_every": 2},
    "track": {"step_size": "exact"},
    "power": {"rho": 0.9},
    "golore": {"random_after": 9},
    "trig_walk": {"swaps": 2},
}
FLOAT32 = float(np.finfo(np.float32).eps)


def literal_rule(name: str, m: int, r: int, like: list[np.ndarray], settings: dict, eps: float) -> bases.Basis:
    draw = draws(m, r)
    return {
        "svd": lambda: bases.svd(r, like),
        "frozen": lambda: bases.frozen(r, like),
        "jump": lambda: bases.jump(draw),
        "coordinates": lambda: bases.coordinates(draw),
        "walk": lambda: bases.walk(r, draw, settings["walk_step"], like),
        "hybrid": lambda: bases.hybrid(r, draw, settings["walk_step"], settings["jump_every"], like),
        "track": lambda: bases.track(r, settings["step_size"], like, eps),
        "power": lambda: bases.power(r, settings["rho"], like),
        "golore": lambda: bases.golore(r, draw, settings["random_after"], like),
        "trig": lambda: bases.trig(r, draws(m, 2)),
        "trig_walk": lambda: bases.trig_walk(r, draws(m, 2), settings["swaps"]),
        "dct": lambda: bases.dct(r),
    }[name]()


def both(
    shape: tuple[int, int], *, rank: int, rule: str, dtype: torch.dtype = torch.float64, **settings: Any
) -> tuple[Run, Callable[[Any], list[np.ndarray]]]:
    """The fast run of a cell, and its literal twin as a function of the gradients."""
    choices = {name: settings.pop(name, value) for name, value in RULE_SETTINGS.get(rule, {}).items()}
    start, gradients = weights(shape), drifting(shape)
    settings = {"lr": LR, **settings}
    build = functools.partial(optim.SubspaceAdam, rule=rule, **settings, **choices)
    run = fast(build, start, gradients, rank=rank, dtype=dtype)
    m, eps = min(shape), float(torch.finfo(dtype).eps)
    if rule in ALONG_ROWS and shape[0] == shape[1]:
        settings = {"side": "right", **settings}
    twin = functools.partial(
        subspace_adam,
        start.numpy(),
        rank=rank,
        rule=literal_rule(rule, m, min(rank, m), run.bases, choices, eps),
        machine_eps=eps,
        **settings,
    )
    return run, twin


def check_exact(shape: tuple[int, int], **settings: Any) -> None:
    run, twin = both(shape, **settings)
    assert distance(run.steps, twin([G.numpy() for G in drifting(shape)]), weights(shape)) < EXACT


@pytest.mark.parametrize("recovery", RECOVERIES)
@pytest.mark.parametrize("moments", MOMENTS)
@pytest.mark.parametrize("rule", RULES)
def test_every_cell(rule, moments, recovery):
    check_exact(SHAPES["tall"], rule=rule, moments=moments, recovery=recovery, rank=4, update_interval=3)


@pytest.mark.parametrize("update_interval", [1, 3, 7])
@pytest.mark.parametrize("rank", [1, 5, "m", "above"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rule", RULES)
def test_shapes_ranks_and_intervals(rule, shape, rank, update_interval):
    m = min(SHAPES[shape])
    rank = {"m": m, "above": m + 3}.get(rank, rank)
    check_exact(SHAPES[shape], rule=rule, rank=rank, update_interval=update_interval)


@pytest.mark.parametrize(
    "settings",
    [
        {"transport": "clamped"},
        {"zeta": None},
        {"zeta": 1.2},
        {"limiter": "before_bias_correction"},
        {"limiter": "before_bias_correction", "moments": "reset", "betas": (0.5, 0.9), "zeta": 1.1},
        {"recovery_scale": 0.3},
        {"scale": 0.25},
        {"weight_decay": 0.1},
        {"betas": (0.5, 0.9), "eps": 1e-4},
        {"betas": (0.0, 0.0)},
        {"side": "left"},
        {"side": "right"},
    ],
    ids=str,
)
@pytest.mark.parametrize("rule", ["walk", "jump", "track", "trig", "trig_walk", "dct"])
def test_settings(rule, settings):
    for shape in SHAPES.values():
        if settings.get("side") == "left" and shape[0] > shape[1]:
            continue
        if settings.get("side") == "right" and shape[0] < shape[1]:
            continue
        check_exact(shape, rule=rule, rank=4, update_interval=3, **settings)


@pytest.mark.parametrize(("side", "shape"), [("left", "tall"), ("right", "wide")])
@pytest.mark.parametrize("rule", ["walk", "svd", "trig_walk"])
def test_the_larger_side(side, shape, rule):
    """Projecting the larger side is allowed: then ``m > n``."""
    start, gradients = weights(SHAPES[shape]), drifting(SHAPES[shape])
    m = max(SHAPES[shape])
    run = fast(
        functools.partial(
            optim.SubspaceAdam, lr=LR, rule=rule, update_interval=3, side=side, **RULE_SETTINGS.get(rule, {})
        ),
        start, gradients, rank=4,
    )  # fmt: skip
    twin = subspace_adam(
        start.numpy(), [G.numpy() for G in gradients], lr=LR, rank=4, update_interval=3, side=side,
        rule=literal_rule(rule, m, 4, run.bases, RULE_SETTINGS.get(rule, {}), np.finfo(float).eps),
    )  # fmt: skip
    assert distance(run.steps, twin, start) < EXACT


@pytest.mark.parametrize("step_size", ["exact", 0.05, 0.5])
def test_step_sizes_of_tracking(step_size):
    check_exact(SHAPES["wide"], rule="track", rank=3, update_interval=2, step_size=step_size)


@pytest.mark.parametrize("swaps", [1, 3, 99])
@pytest.mark.parametrize("rank", [1, 4, 8])
def test_swaps_up_to_all_there_are(rank, swaps):
    check_exact(SHAPES["wide"], rule="trig_walk", rank=rank, update_interval=2, swaps=swaps)


@pytest.mark.parametrize("walk_step", [0.0, 0.01, 1.0, 2.0])
def test_walk_steps_up_to_clipped_angles(walk_step):
    check_exact(SHAPES["wide"], rule="walk", rank=3, update_interval=2, walk_step=walk_step)


@pytest.mark.parametrize("rank", [1, 4, "m"])
@pytest.mark.parametrize(("moments", "recovery"), list(itertools.product(MOMENTS, RECOVERIES)))
@pytest.mark.parametrize("rule", RULES)
def test_float32_to_its_rounding(rule, moments, recovery, rank):
    shape = SHAPES["wide"]
    rank = min(shape) if rank == "m" else rank
    settings = {"rule": rule, "moments": moments, "recovery": recovery, "rank": rank, "update_interval": 3}
    run, twin = both(shape, dtype=torch.float32, **settings)
    start, gradients = weights(shape), drifting(shape)
    bound = rounding_bound(twin, gradients, start)
    assert distance(run.steps, twin([G.numpy() for G in gradients]), start) < bound < 1e-4


def test_zero_gradients_first_and_between():
    """Until the first gradient nothing is chosen; a zero gradient between others is a step like any."""
    shape = SHAPES["wide"]
    start, gradients = weights(shape), drifting(shape)
    for t in (0, 1, 7, 12, 13):
        gradients[t] = torch.zeros(shape).double()
    build = functools.partial(optim.SubspaceAdam, lr=LR, rule="walk", update_interval=4, weight_decay=0.1)
    run = fast(build, start, gradients, rank=3)
    twin = grasswalk(
        start.numpy(), [G.numpy() for G in gradients], lr=LR, rank=3, draw=draws(10, 3), update_interval=4,
        weight_decay=0.1, like=run.bases,
    )  # fmt: skip
    assert distance(run.steps, twin, start) < EXACT


def test_a_first_gradient_of_low_rank_does_not_pin_the_limiter():
    """Its residual is rounding, whose norm must not be what later ones may exceed by one percent a step."""
    shape, rank = SHAPES["wide"], 3
    start, gradients = weights(shape), drifting(shape)
    U, s, Vt = torch.linalg.svd(gradients[0], full_matrices=False)
    gradients[0] = U[:, :rank] * s[:rank] @ Vt[:rank]
    for dtype, eps in ((torch.float64, np.finfo(np.float64).eps), (torch.float32, FLOAT32)):
        build = functools.partial(optim.SubspaceAdam, lr=LR, rule="walk", update_interval=4)
        run = fast(build, start, gradients, rank=rank, dtype=dtype)
        twin = functools.partial(
            grasswalk, start.numpy(), lr=LR, rank=rank, draw=draws(10, rank), update_interval=4,
            like=run.bases, machine_eps=float(eps),
        )  # fmt: skip
        exact = [G.to(dtype).double() for G in gradients]
        bound = EXACT if dtype == torch.float64 else rounding_bound(twin, exact, start)
        assert distance(run.steps, twin([G.numpy() for G in exact]), start) < bound


def test_columns_that_the_core_misses_get_nothing():
    """Block-sparse gradients: later ones live on columns and rows that the first basis does not know."""
    shape = (8, 16)
    start, dense = weights(shape), drifting(shape)
    gradients = [G.clone() for G in dense]
    for t, G in enumerate(gradients):
        G[4:] = 0
        G[:, 8:] = 0
        if t >= 2:
            G[:4] = 0
            G[4:, 8:] = dense[t][4:, 8:]
    build = functools.partial(optim.SubspaceAdam, lr=LR, rule="frozen", update_interval=4)
    run = fast(build, start, gradients, rank=4)
    twin = subspace_adam(
        start.numpy(), [G.numpy() for G in gradients], lr=LR, rank=4, update_interval=4, rule=bases.frozen(4, run.bases)
    )
    assert distance(run.steps, twin, start) < EXACT
    assert max(np.abs(b - a).max() for a, b in itertools.pairwise(run.steps)) < 20 * LR
