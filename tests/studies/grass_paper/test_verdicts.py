"""Verdicts by hand, and claims on tables whose answer is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from subspace_lab.studies.grass_paper.claims import CLAIMS
from subspace_lab.studies.grass_paper.profiles import profile_named
from subspace_lab.studies.grass_paper.quantities.sensitivity import sensitivity
from subspace_lab.studies.grass_paper.variants import part_name
from subspace_lab.studies.grass_paper.verdicts import FAILS, HOLDS, OPEN, Statement, below, statement, together


def seeds(*values: float) -> pd.Series:
    return pd.Series(values, index=range(len(values)), dtype=float)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [((-1.0, -1.1, -0.9), HOLDS), ((1.0, 1.1, 0.9), FAILS), ((-1.0, 1.0, 0.1), OPEN), ((-1.0,), OPEN), ((), OPEN)],
)
def test_an_interval_decides(values, verdict):
    assert statement("s", seeds(*values)).verdict == verdict


def test_the_interval_is_that_of_a_paired_test():
    one, other = seeds(4.0, 4.2, 4.1), seeds(4.1, 4.25, 4.3)
    found = below("s", one, other)
    interval = stats.ttest_rel(one, other).confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert (found.mean, found.seeds) == (pytest.approx(-0.35 / 3), 3)


def test_seeds_pair_up_and_lone_ones_do_not_count():
    found = below("s", pd.Series({0: 1.0, 1: 2.0, 5: 9.0}), pd.Series({1: 2.5, 0: 1.5, 7: 0.0}))
    assert (found.mean, found.seeds, found.verdict) == (-0.5, 2, HOLDS)


def test_a_margin_is_what_does_not_count():
    one, other = seeds(4.01, 4.012, 4.008), seeds(4.0, 4.0, 4.0)
    assert below("s", one, other).verdict == FAILS
    assert below("s", one, other, margin=0.02).verdict == HOLDS


def test_claims_of_several_statements():
    hold, fail, unknown = (Statement("s", 0, *ends, 3) for ends in ((-2, -1), (1, 2), (-1, 1)))
    assert together([hold, hold]) == HOLDS
    assert together([hold, unknown]) == OPEN
    assert together([unknown, fail, hold]) == FAILS
    assert together([]) == OPEN


class Tables:
    """A store of tables made by hand."""

    def __init__(self, profile, **tables):
        self.profile, self.tables = profile, tables

    def read(self, name):
        return self.tables.get(name, pd.DataFrame())


def cells(losses):
    """Three seeds around each loss, all methods moved alike by the seed."""
    return pd.DataFrame([
        {"cell": f"{method}{seed}", "method": method, "lr": 1e-3, "seed": seed, "status": "complete",
         "eval_loss": loss + seed / 10 + 1e-4 * ((7 * seed + place) % 3)}
        for place, (method, loss) in enumerate(losses.items())
        for seed in range(3)
    ])  # fmt: skip


def verdict_of(name, store):
    (claim,) = (claim for claim in CLAIMS if claim.name == name)
    return together(claim.statements(store))


def test_w6(small):
    peers = {"galore": 4.0, "apollo": 4.1, "ldadam": 4.0, "frugal": 4.2, "subtrack": 3.9}
    assert verdict_of("W6", Tables(small, cells=cells({**peers, "grasswalk": 3.5, "grassjump": 3.6}))) == HOLDS
    assert verdict_of("W6", Tables(small, cells=cells({**peers, "grasswalk": 3.5, "grassjump": 3.95}))) == FAILS
    assert verdict_of("W6", Tables(small, cells=cells({**peers, "grasswalk": 3.5, "grassjump": 3.9001}))) == OPEN
    assert verdict_of("W6", Tables(small)) == OPEN


def test_the_scale(small):
    losses = {"galore": 3.9, "svd": 4.2, "fira": 3.8, "grasswalk": 4.0, "grasswalk scale=0.25": 3.7}
    assert verdict_of("The scale", Tables(small, cells=cells(losses))) == HOLDS
    assert verdict_of("The scale", Tables(small, cells=cells({**losses, "galore": 4.3}))) == FAILS
    assert "grasswalk scale=0.25" in sensitivity(profile_named("cpu"))


def test_w5_needs_both_parts(small):
    def losses(ao, rs, both):
        return {
            part_name(rule, *parts): loss + (0.01 if rule in {"walk", "jump"} else 0)
            for rule in ("svd", "track", "walk", "jump")
            for parts, loss in (
                (("keep", "none"), 4.5), (("transport", "none"), ao), (("keep", "limited"), rs),
                (("transport", "limited"), both),
            )
        }  # fmt: skip

    assert verdict_of("W5", Tables(small, cells=cells(losses(4.3, 4.2, 4.0)))) == HOLDS  # 0.01 worse is a match
    assert verdict_of("W5", Tables(small, cells=cells(losses(3.9, 4.2, 4.0)))) == FAILS


def energy(slope_step, slope_depth):
    rng = np.random.default_rng(0)
    return pd.DataFrame([
        {"seed": seed, "step": step, "depth": depth, "kind": "q_proj", "rank": 32, "m": 128, "null_noise": 0.8,
         "ratio": 0.9 + slope_step * step + slope_depth * depth + 1e-4 * rng.standard_normal()}
        for seed in range(3) for step in range(6) for depth in range(3)
    ])  # fmt: skip


@pytest.mark.parametrize(("slopes", "verdicts"), [((-0.01, 0.01), (HOLDS, FAILS)), ((0.01, -0.01), (FAILS, HOLDS))])
def test_energy_that_falls_and_rises(small, slopes, verdicts):
    store = Tables(small, fig1=energy(*slopes))
    assert (verdict_of("W2", store), verdict_of("W3", store)) == verdicts
    assert verdict_of("W1", store) == HOLDS


def test_energy_of_noise_is_no_core(small):
    """0.6 is above 0.5, and still less than noise would have."""
    assert verdict_of("W1", Tables(small, fig1=energy(0, 0).assign(ratio=lambda t: t["ratio"] - 0.3))) == FAILS
