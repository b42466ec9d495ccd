"""The same methods as others have written them: where they follow their papers, they take the same steps as ours.

Twenty steps in float64 with two refreshes between them. Every departure of a peer is removed to show agreement, and
left in, alone, to show that it is one and that the comparison would see it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks._packages import submodule
from subspace_lab import optim
from tests.optim import peers
from tests.optim.trajectories import LR, SHAPES, Run, distance, draws, drifting, fast, weights

EXACT, SEEN = 1e-9, 1e-3
RANK, T, SIZE = 4, 7, 1e3  # gradients are so large that the peers' 1e-8 beside norms of columns is rounding
COMMON: dict[str, Any] = {"lr": LR, "update_interval": T, "betas": (0.9, 0.999), "eps": 1.0}
GALORES = [(peers.galore_torch, ("eps",)), (peers.pytorch_optimizer_galore, ("eps", "timing"))]
FIRA = ("eps", "timing")
every_shape = pytest.mark.parametrize("name", SHAPES)
every_galore = pytest.mark.parametrize(("peer", "departures"), GALORES, ids=lambda x: getattr(x, "__name__", ""))


def run(build: Any, name: str, shrink: float = 1.0, **settings: Any) -> Run:
    """An optimizer, ours or a peer, on the gradients of a shape; ``shrink`` divides the weights at the start."""
    shape = SHAPES[name]
    gradients = [SIZE * G for G in drifting(shape)]
    return fast(functools.partial(build, **{**COMMON, **settings}), weights(shape) / shrink, gradients, rank=RANK)


def left(name: str) -> str:
    """The peers' name of our side: they project square matrices from the right."""
    return "left" if name == "square" else "std"


def apart(name: str, one: Run, other: Run) -> float:
    return distance(one.steps, other.steps, weights(SHAPES[name]))


def without_each(departures: Collection[str]) -> list[list[str]]:
    return [[other for other in departures if other != kept] for kept in departures]


def limited_as_they_do(method: type[torch.optim.Optimizer]) -> Any:
    limiter = {"limiter": "before_bias_correction"}
    return lambda groups, **settings: peers.limit_exactly_as_the_peers_do(method(groups, **limiter, **settings))


# --- GaLore ----------------------------------------------------------------------------------------------------------


@every_galore
@every_shape
def test_galore(name, peer, departures):
    ours = run(optim.GaLore, name)
    theirs = functools.partial(run, peer, name, side=left(name), scale=0.25, bases=ours.bases[::T])
    assert apart(name, theirs(removed=departures), ours) < EXACT
    for removed in without_each(departures):
        assert apart(name, theirs(removed=removed), ours) > SEEN


@every_galore
@every_shape
def test_galore_finds_the_same_vectors_up_to_their_signs(name, peer, departures):
    """Theirs are from an SVD in float32 whatever the dtype, so that is how far they agree."""
    ours = run(optim.GaLore, name)
    theirs = run(peer, name, side=left(name), scale=0.25, removed=departures, bases=ours.bases[::T])
    (state,) = theirs.optimizer.state.values()
    found = [(S.T if name == "tall" else S).numpy() for S in state["projector"].found]
    assert len(found) == 3
    for mine, its_own in zip(ours.bases[::T], found, strict=True):
        np.testing.assert_allclose(np.abs(mine.T @ its_own), np.eye(RANK), atol=1e-5)


@every_galore
@every_shape
def test_galore_on_its_own_until_its_first_refresh(name, peer, departures):
    """Signs do not matter until moments of one basis meet another: nothing is taken from our run here."""
    ours, theirs = run(optim.GaLore, name), run(peer, name, side=left(name), scale=0.25, removed=departures)
    assert distance(theirs.steps[:T], ours.steps[:T], weights(SHAPES[name])) < 1e-5


@every_galore
def test_galore_of_others_projects_square_matrices_from_the_right(peer, departures):
    right, auto = run(optim.GaLore, "square", side="right"), run(optim.GaLore, "square")
    theirs = run(peer, "square", scale=0.25, removed=departures, bases=right.bases[::T])
    assert apart("square", theirs, right) < EXACT
    assert apart("square", theirs, auto) > SEEN


@every_galore
@every_shape
def test_galore_of_others_decays_weights_after_the_step(name, peer, departures):
    """``W = (1 - lr wd) (W - step)``: over ``1 - lr wd`` the weights follow our order, from another start."""
    decay = 1 - LR * 0.5
    ours, shrunk = (run(optim.GaLore, name, shrink, weight_decay=0.5) for shrink in (1, decay))
    settings = {"side": left(name), "scale": 0.25, "removed": departures, "weight_decay": 0.5}
    theirs = run(peer, name, bases=ours.bases[::T], **settings)
    shrunk.steps = [decay * W for W in shrunk.steps]
    assert apart(name, theirs, shrunk) < EXACT
    assert apart(name, theirs, ours) > 1e3 * EXACT


# --- Fira ------------------------------------------------------------------------------------------------------------


@every_shape
def test_fira(name):
    ours, same = run(optim.Fira, name, scale=1.0), run(limited_as_they_do(optim.Fira), name, scale=1.0)
    theirs = functools.partial(
        run, peers.pytorch_optimizer_fira, name, side=left(name), scale=1.0, bases=ours.bases[::T]
    )
    assert apart(name, theirs(removed=FIRA), same) < EXACT
    assert apart(name, theirs(removed=FIRA), ours) > SEEN
    for removed in without_each(FIRA):
        assert apart(name, theirs(removed=removed), same) > SEEN


@every_shape
def test_fira_of_others_scales_the_core_alone(name):
    """Its residual is ``G - scale S A`` and its bulk is not scaled; with ``scale`` in the learning rate it is ours."""
    ours = run(limited_as_they_do(optim.Fira), name, scale=0.25)
    theirs = functools.partial(
        run, peers.pytorch_optimizer_fira, name, side=left(name), removed=FIRA, bases=ours.bases[::T]
    )
    assert apart(name, theirs(scale=1.0, lr=0.25 * LR), ours) < EXACT
    assert apart(name, theirs(scale=0.25), ours) > SEEN


# --- APOLLO ----------------------------------------------------------------------------------------------------------


def our_draws(name: str) -> list[np.ndarray]:
    """P^T of all refreshes."""
    return [draws(min(SHAPES[name]), RANK)(refresh) / RANK**0.5 for refresh in range(3)]


def theirs_and_ours(name: str, scaling: str = "channel") -> tuple[Any, Any]:
    """APOLLO of others and ours, as functions of what is left to choose.

    A square matrix from the left is not to be had there: its factors then belong to rows and are as many as P has.
    """
    side = "right" if name == "square" else "auto"
    theirs = functools.partial(run, peers.apollo_torch, name, bases=our_draws(name), scaling=scaling)
    return theirs, lambda method=optim.APOLLO, **more: run(method, name, scaling=scaling, side=side, **more)


@pytest.mark.parametrize("scaling", ["channel", "tensor"])
@every_shape
def test_apollo(name, scaling):
    theirs, ours = theirs_and_ours(name, scaling)
    same = ours(limited_as_they_do(optim.APOLLO))
    assert apart(name, theirs(scale=1.0, removed=["eps"]), same) < EXACT
    assert apart(name, theirs(scale=1.0, removed=["eps"]), ours()) > SEEN
    assert apart(name, theirs(scale=1.0), same) > SEEN


@every_shape
def test_apollo_without_the_limiters(name):
    theirs, ours = theirs_and_ours(name)
    assert apart(name, theirs(scale=1.0, removed=["eps"], limited=False), ours(zeta=None)) < EXACT


@every_shape
def test_apollo_of_others_takes_the_square_of_our_scale(name):
    theirs, ours = theirs_and_ours(name)
    same = ours(limited_as_they_do(optim.APOLLO), scale=3.0)
    assert apart(name, theirs(scale=9.0, removed=["eps"]), same) < EXACT


@every_shape
def test_apollo_of_others_decays_weights_after_the_step(name):
    decay = 1 - LR * 0.5
    theirs, ours = theirs_and_ours(name)
    shrunk = ours(limited_as_they_do(optim.APOLLO), weight_decay=0.5, shrink=decay)
    shrunk.steps = [decay * W for W in shrunk.steps]
    found = theirs(scale=1.0, removed=["eps"], weight_decay=0.5)
    assert apart(name, found, shrunk) < EXACT
    assert apart(name, found, ours(limited_as_they_do(optim.APOLLO), weight_decay=0.5)) > 1e3 * EXACT


def test_apollo_draws_projections_of_variance_one_over_r():
    """Ours and theirs: the same law, from other seeds."""
    projector = submodule("apollo_torch", "random_projector").GradientProjector(RANK, update_proj_gap=1)
    for refresh in range(4):
        projector.project(torch.ones(100, 200), refresh)
        ours = draws(100, RANK)(refresh).T / RANK**0.5
        for P in (projector.ortho_matrix.T.numpy(), ours):
            assert P.var() == pytest.approx(1 / RANK, rel=4 * (2 / P.size) ** 0.5)


# --- BAdam -----------------------------------------------------------------------------------------------------------


def blocks_in_turn(build: Any, steps: int) -> list[list[np.ndarray]]:
    """Trajectories of four matrices in three blocks, in float32: the released BAdam knows nothing else."""
    shapes = {"layers.0.q": (6, 9), "layers.0.k": (9, 5), "layers.1.q": (6, 9), "layers.2.q": (4, 4)}
    named = [(name, torch.nn.Parameter(weights(shape, i).float())) for i, (name, shape) in enumerate(shapes.items())]
    gradients = [drifting(shape, steps, i) for i, shape in enumerate(shapes.values())]
    optimizer, trajectory = build(named), []
    for t in range(steps):
        for (_, p), G in zip(named, gradients, strict=True):
            p.grad = G[t].float() if p.requires_grad else None
        optimizer.step()
        trajectory.append([p.detach().double().numpy().copy() for _, p in named])
    return trajectory


def test_badam():
    """Two rounds through all blocks. Theirs leaves the first block a step early."""
    settings = {"update_interval": 4, "lr": LR, "weight_decay": 0.5, "betas": (0.8, 0.95), "eps": 1e-3}
    order: list[str] = []

    def ours(named: Any) -> optim.BAdam:
        optimizer = optim.BAdam([{"params": named, "rank": 1}], **settings)
        optimizer.register_step_pre_hook(lambda optimizer, *_: order.append(optimizer.active_block()))
        return optimizer

    mine = blocks_in_turn(ours, 24)
    turns = [[f"{block}."] for block in order[:24:4]]
    assert sorted(turns[:3]) == sorted(turns[3:]) == [["layers.0."], ["layers.1."], ["layers.2."]]
    for removed, is_same in ((["first block"], True), ([], False)):
        theirs = blocks_in_turn(functools.partial(peers.badam, order=turns, removed=removed, **settings), 24)
        pairs = zip(itertools.chain(*mine), itertools.chain(*theirs), strict=True)
        far = max(np.abs(a - b).max() for a, b in pairs)
        assert far < 1e-6 if is_same else far > SEEN
