"""Every named optimizer against the literal algorithm of its paper, in float64 and float32."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch

from subspace_lab import optim
from subspace_lab.optim.orientation import ALONG_ROWS
from subspace_lab.optim.reference.apollo import apollo
from subspace_lab.optim.reference.badam import badam
from subspace_lab.optim.reference.dct_adamw import dct_adamw
from subspace_lab.optim.reference.fast import fastgrassjump, fastgrasswalk
from subspace_lab.optim.reference.fira import fira
from subspace_lab.optim.reference.frugal import frugal
from subspace_lab.optim.reference.galore import galore, golore
from subspace_lab.optim.reference.grass import grassjump, grasswalk
from subspace_lab.optim.reference.ldadam import ldadam
from subspace_lab.optim.reference.online import online_subspace_descent
from subspace_lab.optim.reference.rso import rso
from subspace_lab.optim.reference.subtrack import subtrack
from tests.optim.trajectories import LR, SHAPES, distance, draws, drifting, fast, rounding_bound, weights

EXACT = 1e-9
Twin = Callable[..., list[np.ndarray]]


def rows(m: int, r: int) -> Callable[[int], list[int]]:
    """The rows that FRUGAL chooses at a refresh."""
    return lambda refresh: draws(1, m)(refresh).ravel().argsort()[:r].tolist()


# What a method does, and its twin for a run: (m, r, bases of the run, machine eps) -> literal algorithm.
METHODS: dict[str, tuple[dict, Callable[[int, int, list[np.ndarray], float], Twin]]] = {
    "GrassWalk": ({"walk_step": 0.2}, lambda m, r, like, eps: functools.partial(
        grasswalk, draw=draws(m, r), walk_step=0.2, like=like, machine_eps=eps)),
    "GrassJump": ({}, lambda m, r, like, eps: functools.partial(
        grassjump, draw=draws(m, r), machine_eps=eps)),
    "SubTrack": ({}, lambda m, r, like, eps: functools.partial(
        subtrack, like=like, machine_eps=eps)),
    "GaLore": ({}, lambda m, r, like, eps: functools.partial(
        galore, scale=0.25, like=like)),
    "GoLore": ({"random_after": 7, "scale": 0.25}, lambda m, r, like, eps: functools.partial(
        golore, draw=draws(m, r), random_after=7, scale=0.25, like=like)),
    "LDAdam": ({"betas": (0.908, 0.99), "rho": 0.908}, lambda m, r, like, eps: functools.partial(
        ldadam, betas=(0.908, 0.99), rho=0.908, like=like)),
    "Fira": ({"scale": 1.0}, lambda m, r, like, eps: functools.partial(
        fira, scale=1.0, like=like, machine_eps=eps)),
    "APOLLO": ({"scale": 1.0}, lambda m, r, like, eps: functools.partial(
        apollo, draw=draws(m, r), machine_eps=eps)),
    "FRUGAL": ({"scale": 1.0, "recovery_scale": 0.5}, lambda m, r, like, eps: functools.partial(
        frugal, rows=rows(m, r), recovery_scale=0.5)),
    "OnlineSubspaceDescent": ({"scale": 1.0}, lambda m, r, like, eps: functools.partial(
        online_subspace_descent, like=like)),
    "RSO": ({"scale": 1.0}, lambda m, r, like, eps: functools.partial(
        rso, draw=draws(m, r))),
    "FastGrassWalk": ({"swaps": 2}, lambda m, r, like, eps: functools.partial(
        fastgrasswalk, draw=draws(m, 2), swaps=2, machine_eps=eps)),
    "FastGrassJump": ({}, lambda m, r, like, eps: functools.partial(
        fastgrassjump, draw=draws(m, 2), machine_eps=eps)),
    "DCTAdamW": ({}, lambda m, r, like, eps: dct_adamw),
}  # fmt: skip


def test_every_method_has_its_literal_twin() -> None:
    assert {*METHODS, "BAdam"} == {*optim.methods.__all__}


def compare(
    name: str, shape: tuple[int, int], rank: int, interval: int, dtype: torch.dtype, twin_options=None, **settings
):
    """Distance of the fast and the literal trajectory, and the bound of float32."""
    options, twin = METHODS[name]
    start, gradients, m = weights(shape), drifting(shape), min(shape)
    if dtype == torch.bfloat16:
        start, gradients = start.to(dtype).double(), [G.to(dtype).double() for G in gradients]
    common = {"lr": LR, "update_interval": interval}
    build = functools.partial(getattr(optim, name), **common, **{**options, **settings})
    run = fast(build, start, gradients, rank=rank, dtype=dtype)
    eps = float(torch.finfo(torch.float32 if dtype == torch.bfloat16 else dtype).eps)
    if shape[0] == shape[1] and run.optimizer.param_groups[0].get("rule") in ALONG_ROWS:
        common = {**common, "side": "right"}
    literal = functools.partial(
        twin(m, min(rank, m), run.bases, eps), start.numpy(), rank=rank, **common,
        **(settings if twin_options is None else twin_options),
    )  # fmt: skip
    bound = EXACT if dtype == torch.float64 else rounding_bound(literal, gradients, start, dtype)
    return distance(run.steps, literal([G.numpy() for G in gradients]), start), bound


@pytest.mark.parametrize("interval", [1, 3, 7])
@pytest.mark.parametrize("rank", [1, 4, "m", "above"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", METHODS)
def test_float64(name, shape, rank, interval):
    m = min(SHAPES[shape])
    difference, bound = compare(
        name, SHAPES[shape], {"m": m, "above": m + 2}.get(rank, rank), interval, torch.float64, weight_decay=0.1
    )
    assert difference < bound


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", METHODS)
def test_float32_to_its_rounding(name, shape):
    difference, bound = compare(name, SHAPES[shape], 4, 3, torch.float32)
    assert difference < bound < 1e-3


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_to_its_rounding(name, shape):
    """Products are rounded to bfloat16, moments are not: the difference stays below the bound without its factor 4."""
    difference, bound = compare(name, SHAPES[shape], 4, 3, torch.bfloat16)
    assert difference < bound / 4


@pytest.mark.parametrize(
    ("name", "settings", "literal"),
    [
        ("GrassWalk", {"zeta": None}, None),
        ("GrassWalk", {"transport": "clamped", "recovery_scale": 0.5, "scale": 0.25}, None),
        ("GrassJump", {"transport": "clamped", "zeta": 1.2}, None),
        ("SubTrack", {"step_size": 0.1}, None),
        ("GrassJump", {"limiter": "before_bias_correction", "zeta": 1.1}, None),
        ("SubTrack", {"limiter": "before_bias_correction"}, None),
        ("Fira", {"zeta": None}, None),
        ("Fira", {"limiter": "before_bias_correction", "betas": (0.0, 0.9)}, None),
        ("APOLLO", {"zeta": None}, None),
        ("APOLLO", {"limiter": "before_bias_correction"}, None),
        ("APOLLO", {"scaling": "tensor"}, None),
        ("APOLLO", {"scaling": "tensor", "limiter": "before_bias_correction", "zeta": 1.0}, None),
        ("OnlineSubspaceDescent", {"basis_lr_scale": 1.0, "orthogonality": 0.5}, None),
        ("RSO", {"prox": 2.0}, None),
    ],
    ids=str,
)
def test_options(name, settings, literal):
    for shape in SHAPES.values():
        difference, bound = compare(name, shape, 4, 3, torch.float64, twin_options=literal, **settings)
        assert difference < bound


def test_zero_first_gradients_are_no_steps():
    for name, (options, _) in METHODS.items():
        shape = SHAPES["wide"]
        gradients = drifting(shape)
        build = functools.partial(getattr(optim, name), lr=LR, update_interval=3, **options)
        plain = fast(build, weights(shape), gradients, rank=4).steps
        late = fast(build, weights(shape), [0 * gradients[0]] * 4 + gradients, rank=4).steps
        assert np.array_equal(plain, late[4:]), name


def test_groups_without_a_rank_are_torchs_adamw():
    shape = SHAPES["tall"]
    for name in [*METHODS, "SubspaceAdam"]:
        settings = {"lr": LR, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
        run = fast(functools.partial(getattr(optim, name), **settings), weights(shape), drifting(shape), rank=None)
        expected = fast(
            lambda groups, settings=settings: torch.optim.AdamW(groups[0]["params"], **settings),
            weights(shape), drifting(shape), rank=None,
        )  # fmt: skip
        np.testing.assert_allclose(run.steps, expected.steps, rtol=1e-12, atol=1e-15, err_msg=name)


def test_badam():
    """Blocks by their names; every epoch visits each once, in an order that is read off what moved."""
    shapes = {"layers.0.q": (6, 9), "layers.0.k": (9, 5), "layers.1.q": (6, 9), "layers.2.q": (4, 4)}
    blocks, interval, steps = [0, 0, 1, 2], 4, 6 * 4
    starts = [weights(shape, seed) for seed, shape in enumerate(shapes.values())]
    gradients = [drifting(shape, steps, seed) for seed, shape in enumerate(shapes.values())]
    parameters = [torch.nn.Parameter(W.clone()) for W in starts]
    optimizer = optim.BAdam(
        [{"params": list(zip(shapes, parameters, strict=True)), "rank": 1}],
        lr=LR, update_interval=interval, weight_decay=0.1,
    )  # fmt: skip
    trajectory, order = [], []
    for t in range(steps):
        before = [p.detach().clone() for p in parameters]
        for p, G in zip(parameters, gradients, strict=True):
            p.grad = G[t].clone()
        optimizer.step()
        moved = {
            block for block, p, old in zip(blocks, parameters, before, strict=True) if not torch.equal(p.detach(), old)
        }
        assert len(moved) == 1, "one block moves at a time"
        order += moved if t % interval == 0 else []
        trajectory.append([p.detach().numpy().copy() for p in parameters])
    assert sorted(order[:3]) == sorted(order[3:]) == [0, 1, 2], "every epoch visits each block once"
    literal = badam(
        [W.numpy() for W in starts],
        [[G[t].numpy() for G in gradients] for t in range(steps)],
        lr=LR, blocks=blocks, order=lambda epoch: order[3 * epoch : 3 * epoch + 3], update_interval=interval,
        weight_decay=0.1,
    )  # fmt: skip
    for i, start in enumerate(starts):
        assert distance([step[i] for step in trajectory], [step[i] for step in literal], start) < EXACT
