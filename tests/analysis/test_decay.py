"""Curves that are exactly of the fitted kind, the jackknife of a mean, and ranks between measured ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from subspace_lab.analysis.decay import Decay, Energies, standard_error

AGES = np.array([10.0, 20.0, 40.0, 80.0])


@pytest.mark.parametrize(("scale", "power"), [(25.0, 1.0), (60.0, 1.5), (100.0, 2.0)])
def test_an_exact_curve_is_found_again(scale, power):
    curve = 0.3 * np.exp(-((AGES / scale) ** power))
    decay = Decay.fit(AGES, curve[None, None], np.ones((1, 4)), np.ones(1))
    assert decay.start[0, 0] == pytest.approx(0.3, rel=0.01)
    assert decay.half_life[0] == pytest.approx(scale * np.log(2) ** (1 / power), rel=0.01)
    assert decay.retained(30)[0] == pytest.approx(np.exp(-((30 / scale) ** power)), rel=0.01)


def test_one_age_is_its_own_reference_and_a_rise_is_no_decay():
    alone = Decay.fit(AGES[:1], np.full((1, 1, 1), 0.2), np.ones((1, 1)), np.ones(1))
    assert (alone.start[0, 0], alone.half_life[0]) == (pytest.approx(0.2), np.inf)
    rising = Decay.fit(AGES, 0.2 + AGES[None, None] / 1e3, np.ones((1, 4)), np.ones(1))
    assert rising.half_life[0] == np.inf
    assert rising.retained(80)[0] > 1


def test_what_follows_a_loss_does_not_shape_the_beginning():
    """A space that comes back, as one that turns in a circle does."""
    back = np.array([0.3, 0.15, 0.03, 0.3])
    gone = Decay.fit(AGES, back[None, None], np.ones((1, 4)), np.ones(1))
    assert 10 < gone.half_life[0] < 40


def test_all_ranks_share_one_curve():
    """Ranks that hold much and little of a space lose it alike; the start is of each."""
    curve = np.exp(-((AGES / 60) ** 1.5))
    decay = Decay.fit(AGES, np.array([0.1, 0.3])[None, :, None] * curve, np.ones((1, 4)), np.array([2.0, 1.0]))
    assert decay.start[0] == pytest.approx([0.1, 0.3], rel=0.01)
    assert decay.half_life[0] == pytest.approx(60 * np.log(2) ** (1 / 1.5), rel=0.01)
    assert decay.misfit < 0.01


def test_the_misfit_is_twice_the_distance_from_the_energies_where_they_are_above_chance():
    """A curve that is flat where energies alternate about it by a tenth."""
    apart = np.array([1.1, 0.9, 1.1, 0.9])
    decay = Decay.fit(AGES, 0.3 * apart[None, None], np.ones((1, 4)), np.ones(1))
    left = apart - decay.start[0, 0] / 0.3 * np.exp(-((AGES / decay.scale[0]) ** decay.power[0]))
    assert decay.misfit == pytest.approx(2 * np.sqrt((left**2).mean()) / (decay.start[0, 0] / 0.3), rel=1e-6)
    gone = np.array([0.3, 0.15, -0.2])
    assert Decay.fit(AGES[:3], gone[None, None], np.ones((1, 3)), np.ones(1)).misfit < 0.2


def test_errors_are_the_jackknifes_and_the_misfits():
    rng = np.random.default_rng(0)
    stale = 0.3 * np.exp(-((AGES / 60) ** 1.5)) * (1 + 0.05 * rng.standard_normal((9, 1, 4)))
    decay = Decay.fit(AGES, stale, np.ones((9, 4)), np.ones(1))
    kept, half = standard_error(decay.retained(30)), standard_error(decay.half_life)
    assert decay.retained_se(30) == pytest.approx(np.hypot(kept, decay.misfit))
    near = decay.half_life[0] * np.array([0.999, 1.001])
    slope = (decay.retained(near[0])[0] - decay.retained(near[1])[0]) / (near[1] - near[0])
    assert decay.half_life_se == pytest.approx(np.hypot(half, decay.misfit / slope), rel=1e-4)


def test_the_jackknife_of_a_mean_is_its_standard_error():
    sample = np.random.default_rng(0).standard_normal(12)
    left_out = [np.delete(sample, i).mean() for i in range(12)]
    error = sample.std(ddof=1) / np.sqrt(12)
    assert standard_error(np.array([sample.mean(), *left_out])) == pytest.approx(error)
    assert standard_error(np.array([1.0, 1.0, 2.0])) is None
    assert standard_error(np.array([1.0, 1.0, 2.0, np.inf])) is None


def test_a_group_is_left_out_with_its_gradients_and_its_bases():
    rows = [(0, 0, 0.5), (1, 1, 0.5), (2, 2, 0.5), (1, 0, 0.1), (2, 1, 0.3), (2, 0, 0.2)]
    table = pd.DataFrame(rows, columns=["step", "basis_step", "fraction"]).assign(rank=2, m=20, n=30)
    energies = Energies.of(table)
    assert energies.ages.tolist() == [1, 2]
    assert energies.pairs.tolist() == [[2, 1], [1, 0], [0, 1], [1, 0]]
    assert energies.stale[:, 0, 0] == pytest.approx([0.1, 0.2, 0, 0])
    assert energies.stale[:, 0, 1] == pytest.approx([0.1, 0, 0.1, 0])


def test_a_stale_energy_is_relative_to_the_own_one_of_its_gradient():
    """Twice the signal in the second gradient, held alike."""
    rows = [(0, 0, 0.4), (1, 1, 0.2), (2, 2, 0.3), (1, 0, 0.1), (2, 1, 0.15)]
    table = pd.DataFrame(rows, columns=["step", "basis_step", "fraction"]).assign(rank=1, m=10**9, n=30)
    assert Energies.of(table).stale[0, 0, 0] == pytest.approx(0.5 * 0.3)
