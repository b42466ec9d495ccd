"""The twins of released code are that code, and the committed sizes are what they measure."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import _released as released
from benchmarks.pages import read
from benchmarks.released_code import DEPARTURES, mapped
from subspace_lab import optim
from subspace_lab.optim.reference.bases import track
from subspace_lab.optim.reference.cells import subspace_adam
from subspace_lab.optim.reference.galore import golore
from subspace_lab.optim.reference.online import online_subspace_descent
from tests.optim import peers
from tests.optim.trajectories import LR, SHAPES, distance, draws, drifting, fast, weights

EXACT = 1e-9
STEPS, RANK, T = 24, 4, 7
TINY = 1e-30  # an eps that is the same before and after the bias correction
every_shape = pytest.mark.parametrize("name", SHAPES)


def driven(build, name, **settings):
    return fast(lambda groups: build(groups, lr=LR, **settings), weights(SHAPES[name]), drifting(SHAPES[name], STEPS),
                rank=RANK)  # fmt: skip


def literal(algorithm, name, size=1.0, **settings):
    gradients = [size * G.numpy() for G in drifting(SHAPES[name], STEPS)]
    return algorithm(weights(SHAPES[name]).numpy(), gradients, lr=LR, rank=RANK, **settings)


@pytest.mark.parametrize("alpha", [1.0, 0.25])
@every_shape
def test_fira_is_pytorch_optimizers_but_for_its_timing(name, alpha):
    ours = driven(optim.Fira, name, update_interval=T)
    settings = {"update_interval": T, "side": "left" if name == "square" else "std", "betas": (0.9, 0.999), "eps": 1e-6}
    theirs = driven(
        peers.pytorch_optimizer_fira, name, scale=alpha, bases=ours.bases[::T], removed=["timing"], **settings
    )
    twin = literal(released.fira, name, like=ours.bases, alpha=alpha, eps=1e-6)
    assert distance(twin, theirs.steps, weights(SHAPES[name])) < 1e-12


@every_shape
def test_golore_without_its_departure_is_the_papers(name):
    like = driven(optim.GoLore, name, random_after=14, update_interval=T).bases
    settings = {"update_interval": T, "scale": 0.25, "eps": TINY}
    twin = literal(released.golore, name, like=like, loses_moment=False, **settings)
    paper = literal(golore, name, like=like, draw=draws(min(SHAPES[name]), RANK), random_after=14, **settings)
    assert distance(twin, paper, weights(SHAPES[name])) < EXACT


@every_shape
def test_online_subspace_descent_without_its_departures_is_the_papers(name):
    like = driven(optim.OnlineSubspaceDescent, name, update_interval=1).bases
    twin = literal(released.online_subspace_descent, name, like=like, basis_decay=0.0, basis_lr=0.02, eps=TINY)
    settings = {"orthogonality": 0.0, "basis_lr_scale": 2.0, "betas": (0.9, 0.999)}
    paper = literal(online_subspace_descent, name, like=like, eps=TINY, **settings)
    assert distance(twin, paper, weights(SHAPES[name])) < 1e-6  # Adam's eps on the basis is 1e-8 there


def test_subtrack_of_a_wide_matrix_is_the_papers_where_its_recovered_part_is_scaled_alike():
    like = driven(optim.SubTrack, "wide", update_interval=T, step_size=0.5).bases
    settings = {"update_interval": T, "eps": TINY, "size": 1e3}
    twin = literal(released.subtrack, "wide", first=like[0], step_size=1e-6 * 0.5, **settings)
    paper = literal(subspace_adam, "wide", rule=track(RANK, 1e-6 * 0.5, like), moments="keep",
                    limiter="before_bias_correction", **settings)  # fmt: skip
    assert distance(twin, paper, weights(SHAPES["wide"])) < 1e-8  # what the code adds to the norms that it compares
    ascending = literal(released.subtrack, "wide", first=like[0], step_size=1e-6 * 0.5, ascends=True, **settings)
    assert distance(ascending, paper, weights(SHAPES["wide"])) > 1e-3


def test_what_options_remove_is_gone():
    assert max(mapped().values()) < 1e-7


def test_the_committed_sizes_are_those_measured():
    rows = read()["released_code"]["results"]["departures"]
    assert [(row["code"], row["does"], row["here"]) for row in rows] == [(d.code, d.does, d.here) for d in DEPARTURES]
    for row, departure in zip(rows, DEPARTURES, strict=True):
        assert list(row["departs"]) == (list(departure.shapes) if departure.measure else [])
        for name, size in row["departs"].items():
            assert departure.measure(name) == pytest.approx(size, rel=0.01), (row["does"], name)
            assert np.isfinite(size)
