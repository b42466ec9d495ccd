"""Curves that are exactly of the fitted kind, the jackknife of a mean, and ranks between measured ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from subspace_lab.analysis.decay import Decay, Energies, saturated, standard_error

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


def test_a_share_that_saturates_between_measured_ranks():
    ranks = np.array([2.0, 4.0, 8.0, 16.0])
    shares = np.array([[0.25, 0.5, 1.0, 1.0], [1.0, 1.0, 0.9, 0.5], [0.0, 0.0, 0.0, 0.0], [0.1, 0.2, 0.5, 1.0]])
    assert saturated(ranks, shares) == pytest.approx([7.2, 2, 2, 14.4])


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
