"""From measured energy to optimizer settings for each layer, with their evidence."""

from __future__ import annotations

import functools
import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from subspace_lab._checks import positive_number
from subspace_lab.analysis.budget import Choice, fit_ranks, state_bytes
from subspace_lab.analysis.decay import Energies
from subspace_lab.analysis.energy import energy
from subspace_lab.analysis.notices import AnalysisNotice
from subspace_lab.analysis.plan import LayerPlan, Plan
from subspace_lab.analysis.signal_rank import rank_se, saturated, signal_rank
from subspace_lab.analysis.significance import above_noise
from subspace_lab.numerics import null_noise
from subspace_lab.runs import Run, RunError
from subspace_lab.runs.run import check_run
from subspace_lab.runs.tables import TABLES

if TYPE_CHECKING:
    import pandas as pd

    from subspace_lab.analysis.decay import Array

BULK = 0.1
SMALLEST_STEP = 0.01
SIGNIFICANT = 2.5  # standard errors by which what is lost must differ from nothing to be walked after
_OF_NOISE = {"layer": "str", "part": "str", "signal": "float", "signal_se": "float", "signal_share": "float"}


def recommend(run: Run, budget_bytes: int | None = None, *, fast: bool = False) -> Plan:
    """Rank, refresh interval, rule, walk step and recovery for every layer, from the energy table.

    An own space fits the noise of its batch, so that the drop from an own to a stale energy is not drift. The reference
    is the stale energy above r/m at age 0, the limit of an ever younger basis of another batch. By least squares over
    the measured ages, weighted by their number of pairs,

        E_r(k) = mean_t (f_r(t, t - k) - r/m) / (f_r(t, t) - r/m) * mean_t (f_r(t, t) - r/m)
               ~ E_r(0) exp(-(k / tau)^beta),   1 <= beta <= 2

    for the energy fraction ``f_r(t, s)`` that a rank-r basis of step s holds of the gradient of step t. What follows::

        interval   half_life = tau (ln 2)^(1 / beta), between the youngest and the oldest age that were measured
        kept       kept = E_r(interval) / E_r(0)
        walk step  arcsin sqrt((1 - kept) (1 - r/m)), the smallest where 1 - kept is below 2.5 standard errors
        rank       where the signal's share ``E_r(0) / (1 - r/m)`` would reach 90 % of its largest value without noise

    The rank is linear between the measured ones; how noise is taken off, whose basis holds the signal in more
    directions than it has, is in `subspace_lab.analysis.signal_rank`. The signal's share of the energy is fitted with
    it, or from split batches where ``subspace-lab analyze --noise`` has been at the checkpoints, which makes the rank
    several times more certain. Where stale energies are absent or not above r/m, the own ones above the noise null take
    their place; without split batches the rank is where these saturate, too low under noise. What lies above the nulls
    is structure, and signal only as far as noise is isotropic and differs from batch to batch. Recovery is for
    what a basis as old as the interval leaves outside, a tenth of the energy or more, and takes a signal there, where
    that was measured, that differs significantly from zero.

    Standard errors are the jackknife's over at most 20 groups of neighbouring captured steps, each left out with its
    gradients and with its bases, and what the fitted curve and the model of the signal are off: of planted gradients
    95 % intervals hold 93 to 100 % of the truths.

    Args:
        run: A run; its energy table is used when it covers all captured steps, otherwise it is computed.
        budget_bytes: What the states of these layers' optimizers may take in float32; ranks then go to the layers where
            energy above noise pays most per byte, none above where it saturates. None for no budget.
        fast: Whether bases are to be random cosines, which cost no memory and no products (`FastGrassWalk`,
            `FastGrassJump`). Such a basis holds r/m of the energy wherever it walks, so that what was measured of own
            spaces speaks for the rank, the interval and the length of a walk, ``swaps = r (walk_step / (pi/2))^2``,
            and not for the energy that is held; recovery is decided by r/m.

    Returns:
        The plan; layers without any gradient that is finite and other than zero are not in it, with a notice.

    Raises:
        ValueError: If the budget is no positive number of bytes.
        RunError: If the run is not sound, none of its gradients has any energy, or the budget is below its minimum.
    """
    check_run(run)
    if budget_bytes is not None:
        positive_number("budget_bytes", budget_bytes)
    table = _energy_table(run).dropna(subset=["fraction"])
    signals = _signals(run)
    evidence = {
        str(name): _Evidence.of(rows, signals.get(str(name)))
        for name, rows in table.groupby("layer", observed=True, sort=False)
    }
    if not evidence:
        raise RunError(f"{run.path} holds no gradient with any energy; capture while the model trains")
    if absent := [row["name"] for row in run.manifest["layers"] if row["name"] not in evidence]:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        warnings.warn(f"no plan for {absent[0]}{more}: no gradient with any energy", AnalysisNotice, stacklevel=2)
    ranks = {layer: found.saturated for layer, found in evidence.items()}
    if budget_bytes is not None:
        ranks = fit_ranks({layer: found.choices(fast) for layer, found in evidence.items()}, int(budget_bytes))
    plans = tuple(found.plan(layer, ranks[layer], fast) for layer, found in evidence.items())
    return Plan(plans, len(run.steps), None if budget_bytes is None else int(budget_bytes))


def _energy_table(run: Run) -> pd.DataFrame:
    try:
        table = run.table("energy", TABLES["energy"])
    except RunError:  # none yet, or one that is damaged
        return energy(run)
    nulls = table[["null_isotropic", "null_noise"]]
    is_sound = np.isfinite(nulls).all(axis=None) and not np.isinf(table["fraction"]).any()
    is_of_run = set(table["layer"]) <= set(run.layers["name"]) and set(table["step"]) == set(run.steps)
    return table if is_sound and is_of_run else energy(run)


@dataclass(frozen=True)
class _Signal:
    """What split batches say of a layer, over the measured checkpoints, in a training batch.

    Attributes:
        share: Signal over signal and noise of the gradient; None where only its bulk was measured.
        bulk_share: The same outside of a core.
        bulk_significant: Whether the signal there differs from zero by two standard errors.
    """

    share: float | None
    bulk_share: float
    bulk_significant: bool


def _signals(run: Run) -> dict[str, _Signal]:
    """By layer, where the noise of the gradient was measured."""
    if not run.has_table("noise"):
        return {}
    table = run.table("noise", _OF_NOISE)
    whole = table[table["part"] == "all"].groupby("layer", observed=True)["signal_share"].mean().dropna().to_dict()
    bulk = table[(table["part"] == "bulk") & (table["layer"] != "model")].groupby("layer", observed=True)
    means, counts = bulk[["signal", "signal_share"]].mean(), bulk.size()
    errors = bulk["signal_se"].agg(lambda errors: float((errors.astype("float64") ** 2).sum() ** 0.5)) / counts
    significant = means["signal"] > 2 * errors
    return {
        str(name): _Signal(whole.get(name), float(means["signal_share"][name]), bool(significant[name]))
        for name in means.index
    }


@dataclass(frozen=True)
class _Evidence:
    """What was measured of one layer.

    Attributes:
        energies: Means over the captured steps, and with groups of them left out.
        above_null: Whether an own energy is significantly above that of noise, at any rank.
        signal: See `_Signal`; None where it was not measured.
    """

    energies: Energies
    above_null: bool
    signal: _Signal | None

    @classmethod
    def of(cls, rows: pd.DataFrame, signal: _Signal | None) -> _Evidence:
        own = rows[rows["basis"] == "own"]
        return cls(Energies.of(rows), bool(above_noise(own, "rank").any()), signal)

    @functools.cached_property
    def above_chance(self) -> bool:
        """Whether stale bases hold significantly more than r/m: nothing else can be walked."""
        return self.energies.above_chance

    @functools.cached_property
    def held(self) -> Array:
        """(1 + J, R): what a rank gains, the share of signal in a stale basis or, without any, the own excess."""
        return np.maximum.accumulate(self.energies.signal, axis=-1) if self.above_chance else self._excess

    @property
    def _excess(self) -> Array:
        nulls = [null_noise(int(rank), *self.energies.shape) for rank in self.energies.ranks]
        excess: Array = self.energies.own - np.array(nulls)
        return excess

    @functools.cached_property
    def wanted(self) -> Array:
        """(1 + J,): the rank before it is rounded up; the smallest where nothing is above noise."""
        ranks = self.energies.ranks
        if not (self.above_null or self.above_chance):
            return np.repeat(ranks[:1], len(self.energies.own))
        share = None if self.signal is None else self.signal.share
        if share is None and not self.above_chance:
            return saturated(ranks, self.held)
        return signal_rank(ranks, self.energies.shape, self.held, is_own=not self.above_chance, share=share)

    @property
    def saturated(self) -> int:
        """The rank to recommend."""
        return math.ceil(float(self.wanted[0]) - 1e-9)

    def choices(self, fast: bool) -> list[Choice]:
        """The measured ranks below the one to recommend and that one, with what they gain and cost at most."""
        m, n = self.energies.shape
        ranks = [*(int(rank) for rank in self.energies.ranks if rank < self.saturated), self.saturated]
        gains = np.interp(ranks, self.energies.ranks, self.held[0])
        return [
            Choice(rank, float(gain) * m * n, state_bytes(m, n, rank, "trig_walk" if fast else "walk"))
            for rank, gain in zip(ranks, gains, strict=True)
        ]

    def _held_at(self, rank: int, retained: float) -> float:
        """The energy fraction that a basis of a rank holds when it keeps a share of what a fresh one does."""
        energies = self.energies
        start = float(np.interp(rank, energies.ranks, energies.decay.start[0])) if self.above_chance else 0.0
        return min(rank / energies.shape[0], 1) + retained * start

    def plan(self, layer: str, rank: int, fast: bool) -> LayerPlan:
        """The settings at a rank."""
        shape, ranks = self.energies.shape, self.energies.ranks
        fraction = float(np.interp(rank, ranks, self.energies.own[0]))
        null = null_noise(rank, *shape)
        aged = _Aged.of(self.energies, rank, self.above_chance)
        walks = aged.interval is not None and aged.bound != "at most"
        rule = "walk" if (self.above_null or self.above_chance) and aged.bound != "at most" else "jump"
        rank_bound = _rank_bound(rank, [int(each) for each in ranks])
        bulk, outside = self.signal, 1 - (fraction if aged.retained is None else self._held_at(rank, aged.retained))
        walk_step, swaps = aged.walk_step if walks else None, None  # radians; with fast bases a number of cosines
        if fast:
            rule, outside = {"walk": "trig_walk", "jump": "trig"}[rule], 1 - min(rank / shape[0], 1)
            if walk_step is not None:
                swaps = max(1, round(rank * (walk_step / (math.pi / 2)) ** 2))
            walk_step = None
        return LayerPlan(
            layer=layer,
            rank=rank,
            excess=fraction - null,
            fraction=fraction,
            null_noise=null,
            update_interval=aged.interval if walks else None,
            retained=aged.retained,
            bound=aged.bound,
            rank_bound=rank_bound,
            above_noise=self.above_null or self.above_chance,
            rule=rule,
            walk_step=walk_step,
            recovery="scaled" if outside >= BULK and (bulk is None or bulk.bulk_significant) else "none",
            bulk=1 - fraction,
            bulk_signal=None if bulk is None else bulk.bulk_share,
            state_bytes=state_bytes(*shape, rank, rule),
            rank_se=None if rank_bound or rank != self.saturated else rank_se(self.wanted),
            update_interval_se=aged.interval_se if walks else None,
            retained_se=aged.retained_se,
            walk_step_se=aged.walk_step_se if walk_step is not None else None,
            swaps=swaps,
        )


@dataclass(frozen=True)
class _Aged:
    """How long a stale basis of a rank may be kept, what it keeps and how far the space turns in that time."""

    interval: int | None = None
    bound: str = ""
    retained: float | None = None
    walk_step: float | None = None
    interval_se: float | None = None
    retained_se: float | None = None
    walk_step_se: float | None = None

    @classmethod
    def of(cls, energies: Energies, rank: int, above_chance: bool) -> _Aged:
        ages = energies.ages
        if not len(ages):
            return cls()
        if not above_chance:
            return cls(int(ages[0]), "at most", 0.0)
        decay = energies.decay
        half_life = decay.half_life
        bound = "at least" if half_life[0] >= ages[-1] else "at most" if half_life[0] < ages[0] else ""
        interval = int(np.clip(half_life[0], ages[0], ages[-1]))
        retained = decay.retained(interval)
        error = decay.retained_se(interval)
        lost, room = max(1 - float(retained[0]), 0.0), 1 - min(rank / energies.shape[0], 1)

        def turned(share: float) -> float:
            return math.asin(math.sqrt(min(share, 1.0) * room))

        counted = lost if error is None or lost > SIGNIFICANT * error else 0.0
        return cls(
            interval,
            bound,
            1 - lost,
            max(turned(counted), SMALLEST_STEP),
            None if bound else decay.half_life_se,
            error,
            None if error is None else turned(lost + error) - turned(counted),
        )


def _rank_bound(rank: int, measured: list[int]) -> str:
    """How the rank lies to the measured ones; no rank is below 1."""
    if len(measured) == 1:
        return "only"
    return "at least" if rank > measured[-2] else "at most" if rank == measured[0] > 1 else ""
