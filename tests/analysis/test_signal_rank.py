"""Ranks between measured ones, with noise taken off by what a planted signal would show."""

from __future__ import annotations

import numpy as np
import pytest

from subspace_lab.analysis.decay import standard_error
from subspace_lab.analysis.signal_rank import rank_se, saturated, signal_rank
from subspace_lab.numerics import spiked_energies

RANKS = np.array([2.0, 4.0, 8.0, 16.0, 32.0])
SHAPE = (48, 144)


def test_a_share_that_saturates_between_measured_ranks():
    ranks = np.array([2.0, 4.0, 8.0, 16.0])
    shares = np.array([[0.25, 0.5, 1.0, 1.0], [1.0, 1.0, 0.9, 0.5], [0.0, 0.0, 0.0, 0.0], [0.1, 0.2, 0.5, 1.0]])
    assert saturated(ranks, shares) == pytest.approx([7.2, 2, 2, 14.4])


@pytest.mark.parametrize("spectrum", ["equal", "falling", "long"])
def test_without_noise_it_is_where_the_share_saturates_whatever_the_spectrum(spectrum):
    of = {"equal": np.arange(32) < 6, "falling": 0.8 ** np.arange(32), "long": 1 / np.arange(1, 33)}[spectrum]
    shares = 0.98 * (of.cumsum() / of.sum())[RANKS.astype(int) - 1][None]
    assert signal_rank(RANKS, SHAPE, shares, share=0.98)[0] == pytest.approx(saturated(RANKS, shares)[0], rel=0.06)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("planted", [3.0, 6.0, 11.0])
def test_the_planted_rank_is_found_from_what_it_shows(planted, share):
    """Of energies as the model predicts them, without and with the share of signal known."""
    held, own = spiked_energies(RANKS, *SHAPE, np.array([planted]), np.array([share]))
    without_noise = saturated(RANKS, np.minimum(RANKS / planted, 1))
    for known in (None, share):
        assert signal_rank(RANKS, SHAPE, held[0] / (1 - RANKS / 48), share=known)[0] == pytest.approx(
            without_noise, rel=0.06
        )
        assert signal_rank(RANKS, SHAPE, own[0], is_own=True, share=known)[0] == pytest.approx(without_noise, rel=0.06)


def test_the_error_of_a_rank_is_not_below_that_of_the_model():
    same, apart = np.full(8, 10.0), np.array([10.0, 9, 11, 10, 9, 11, 10, 10])
    assert rank_se(same) == pytest.approx(0.5)
    assert rank_se(apart) == pytest.approx(np.hypot(0.5, standard_error(apart)))
    assert rank_se(same[:3]) is None
