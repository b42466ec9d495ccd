"""The rank that holds 90 % of a signal, from a noisy basis.

Legend: m, n shape of a layer's oriented gradient; r rank of a basis; p rank of a signal; s its share of the energy; J
groups of captured steps, each left out once; R ranks.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from subspace_lab.analysis.decay import standard_error
from subspace_lab.numerics import spiked_energies

if TYPE_CHECKING:
    from subspace_lab.analysis.decay import Array

SATURATION = 0.9
_NUM_RANKS, _NUM_SHARES = 160, 60
_LEAST_SHARE, _MOST_SHARE = 0.01, 0.98
_MODEL = 0.05  # of a rank: error of the simulated signals, and of what lies between measured ranks


def saturated(ranks: Array, shares: Array) -> Array:
    """Where a share reaches 90 % of its largest value, linearly between measured ranks.

    Args:
        ranks: (R,), ascending.
        shares: (..., R).

    Returns:
        Ranks (...), not rounded.
    """
    largest = shares.max(-1, keepdims=True)
    reached = np.maximum.accumulate(shares / np.where(largest > 0, largest, np.inf), axis=-1)
    at = np.where(largest[..., 0] > 0, (reached >= SATURATION).argmax(-1), 0)
    before = np.maximum(at - 1, 0)
    low, high = (np.take_along_axis(reached, of[..., None], -1)[..., 0] for of in (before, at))
    part = np.where(high > low, (SATURATION - low) / np.where(high > low, high - low, 1), 1.0)
    found: Array = np.where(at > 0, ranks[before] + part * (ranks[at] - ranks[before]), ranks[at])
    return found


def signal_rank(
    ranks: Array, shape: tuple[int, int], shares: Array, *, is_own: bool = False, share: float | None = None
) -> Array:
    """At which rank 90 % of the signal would be held if the basis had no noise.

    Under noise a basis holds a part of each direction of the signal and goes on to gain on it with directions that the
    signal does not have: where the held share saturates is too high a rank, and where own energies do too low a one. By
    how much depends on p and s. A signal of p equal directions in isotropic noise is fitted to the profile of the
    shares over all ranks (`subspace_lab.numerics.spiked_energies`). With ``of`` for where something saturates,

        rank = of(this signal without noise) (of(measured) / of(this signal))^s

    so that without noise, where the fitted signal loses nothing, it is where the measured share saturates, whatever the
    spectrum, and under much noise, where that scatters, what the fit says.

    Args:
        ranks: (R,), ascending.
        shape: m and n.
        shares: (1 + J, R), share of the energy that is signal in a basis of another batch, ``E_r(0) / (1 - r/m)``; or,
            without stale energies, own energies above the noise null.
        is_own: Which of the two.
        share: s where it is known, from split batches; None to fit it.

    Returns:
        (1 + J,), not rounded.
    """
    m, n = shape
    planted = np.geomspace(ranks[0], max(min(ranks[-1], m), ranks[0]), _NUM_RANKS)
    possible = np.geomspace(_LEAST_SHARE, _MOST_SHARE, _NUM_SHARES)
    if share is not None:
        possible = np.clip([share], _LEAST_SHARE, _MOST_SHARE)
    held, own = spiked_energies(ranks, m, n, planted, possible)  # (P, Q, R)
    blind = np.minimum(ranks / m, 1)
    inside = blind < 1
    model = own if is_own else np.divide(held, 1 - blind, out=np.zeros_like(held), where=inside)
    weights = np.where(inside, (1 - blind) / blind, 0)  # noise of E_r has the variance r/m (1 - r/m)
    misfit = np.einsum("r,pqr->pq", weights, model**2) - 2 * np.einsum("r,jr,pqr->jpq", weights, shares, model)
    best = misfit.reshape(len(shares), -1).argmin(1)
    at_rank, at_share = np.divmod(best, len(possible))
    fitted = saturated(ranks, model[at_rank, at_share])
    without_noise = saturated(ranks, np.minimum(ranks / planted[at_rank, None], 1))
    found: Array = without_noise * (saturated(ranks, shares) / fitted) ** possible[at_share]
    return found


def rank_se(wanted: Array) -> float | None:
    """Standard error of a rank from `signal_rank`: the jackknife's, and 5 % of the rank for the model."""
    error = standard_error(wanted)
    return None if error is None else math.hypot(error, _MODEL * float(wanted[0]))
