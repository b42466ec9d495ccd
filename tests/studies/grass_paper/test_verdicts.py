"""Verdicts of the claims on tables whose answer is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from subspace_lab.experiments.claims import INCONCLUSIVE, REFUTED, SUPPORTED, together
from subspace_lab.studies.grass_paper.claims import CLAIMS
from subspace_lab.studies.grass_paper.profiles import profile_named
from subspace_lab.studies.grass_paper.quantities.sensitivity import sensitivity
from subspace_lab.studies.grass_paper.variants import part_name
from tests.studies.grass_paper.by_hand import Tables


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
    assert verdict_of("W6", Tables(small, results=cells({**peers, "grasswalk": 3.5, "grassjump": 3.6}))) == SUPPORTED
    assert verdict_of("W6", Tables(small, results=cells({**peers, "grasswalk": 3.5, "grassjump": 3.95}))) == REFUTED
    assert (
        verdict_of("W6", Tables(small, results=cells({**peers, "grasswalk": 3.5, "grassjump": 3.9001}))) == INCONCLUSIVE
    )
    assert verdict_of("W6", Tables(small)) == INCONCLUSIVE


def test_the_scale(small):
    losses = {"galore": 3.9, "svd": 3.905, "grasswalk": 4.0, "grasswalk scale=0.25": 3.997}
    assert verdict_of("The scale", Tables(small, results=cells(losses))) == SUPPORTED
    assert verdict_of("The scale", Tables(small, results=cells({**losses, "galore": 4.3}))) == REFUTED
    assert "grasswalk scale=0.25" in sensitivity(profile_named("cpu"))


def test_against_adamw(small):
    losses = {"adamw": 4.0, **dict.fromkeys(small.methods[1:], 4.01), "frozen+AO+RS": 4.0}
    assert verdict_of("Against AdamW", Tables(small, results=cells(losses))) == SUPPORTED
    assert verdict_of("Against AdamW", Tables(small, results=cells({**losses, "subtrack": 4.03}))) == REFUTED


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

    assert verdict_of("W5", Tables(small, results=cells(losses(4.3, 4.2, 4.0)))) == SUPPORTED  # 0.01 worse is a match
    assert verdict_of("W5", Tables(small, results=cells(losses(3.9, 4.2, 4.0)))) == REFUTED


def energy(slope_step, slope_depth):
    rng = np.random.default_rng(0)
    return pd.DataFrame([
        {"seed": seed, "step": step, "depth": depth, "kind": "q_proj", "rank": 32, "m": 128, "null_noise": 0.8,
         "ratio": 0.9 + slope_step * step + slope_depth * depth + 1e-4 * rng.standard_normal()}
        for seed in range(3) for step in range(6) for depth in range(3)
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("slopes", "verdicts"), [((-0.01, 0.01), (SUPPORTED, REFUTED)), ((0.01, -0.01), (REFUTED, SUPPORTED))]
)
def test_energy_that_falls_and_rises(small, slopes, verdicts):
    store = Tables(small, fig1=energy(*slopes))
    assert (verdict_of("W2", store), verdict_of("W3", store)) == verdicts
    assert verdict_of("W1", store) == SUPPORTED


def test_energy_of_noise_is_no_core(small):
    """0.6 is above 0.5, and still less than noise would have."""
    assert verdict_of("W1", Tables(small, fig1=energy(0, 0).assign(ratio=lambda t: t["ratio"] - 0.3))) == REFUTED
