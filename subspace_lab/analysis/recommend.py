"""From measured energy to optimizer settings for each layer, with their evidence."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from subspace_lab._checks import positive_number
from subspace_lab.analysis.budget import Choice, fit_ranks, state_bytes
from subspace_lab.analysis.energy import energy
from subspace_lab.analysis.notices import AnalysisNotice
from subspace_lab.analysis.plan import LayerPlan, Plan
from subspace_lab.analysis.significance import above_noise
from subspace_lab.runs import Run, RunError
from subspace_lab.runs.run import check_run
from subspace_lab.runs.tables import TABLES

if TYPE_CHECKING:
    import pandas as pd

SATURATION = 0.9
RETENTION = 0.5
BULK = 0.1
SMALLEST_STEP = 0.01
_OF_NOISE = {"layer": "str", "part": "str", "signal": "float", "signal_se": "float", "signal_share": "float"}


def recommend(run: Run, budget_bytes: int | None = None) -> Plan:
    """Rank, refresh interval, rule, walk step and recovery for every layer, from the energy table.

    The rank is where the energy above the noise null saturates; the interval is how long a stale basis keeps its
    energy above r/m; a walk turns as far as the gradient did in that time. All are read at the measured ranks and ages
    only, without interpolation: capture more often or analyse more ranks for finer answers. What lies above the null is
    structure and need not be signal. Where ``subspace-lab analyze --noise`` has been at the checkpoints, recovery takes
    a signal in the bulk that differs significantly from zero.

    Args:
        run: A run; its energy table is used when it covers all captured steps, otherwise it is computed.
        budget_bytes: What the states of these layers' optimizers may take in float32; ranks then go to the layers where
            energy above noise pays most per byte, none above where it saturates. None for no budget.

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
    evidence = {str(name): _Evidence.of(rows) for name, rows in table.groupby("layer", observed=True, sort=False)}
    if not evidence:
        raise RunError(f"{run.path} holds no gradient with any energy; capture while the model trains")
    if absent := [row["name"] for row in run.manifest["layers"] if row["name"] not in evidence]:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        warnings.warn(f"no plan for {absent[0]}{more}: no gradient with any energy", AnalysisNotice, stacklevel=2)
    ranks = {layer: found.saturated for layer, found in evidence.items()}
    if budget_bytes is not None:
        ranks = fit_ranks({layer: found.choices() for layer, found in evidence.items()}, int(budget_bytes))
    signals = _bulk_signals(run)
    plans = tuple(found.plan(layer, ranks[layer], signals.get(layer)) for layer, found in evidence.items())
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
class _BulkSignal:
    """How much of the energy outside of a core is signal, over the measured checkpoints.

    Attributes:
        share: Signal over signal and noise, in a training batch.
        significant: Whether the signal differs from zero by two standard errors.
    """

    share: float
    significant: bool


def _bulk_signals(run: Run) -> dict[str, _BulkSignal]:
    """By layer, where the noise of the gradient was measured."""
    if not run.has_table("noise"):
        return {}
    table = run.table("noise", _OF_NOISE)
    bulk = table[(table["part"] == "bulk") & (table["layer"] != "model")].groupby("layer", observed=True)
    means, counts = bulk[["signal", "signal_share"]].mean(), bulk.size()
    errors = bulk["signal_se"].agg(lambda errors: float((errors.astype("float64") ** 2).sum() ** 0.5)) / counts
    significant = means["signal"] > 2 * errors
    return {str(name): _BulkSignal(float(means["signal_share"][name]), bool(significant[name])) for name in means.index}


@dataclass(frozen=True)
class _Evidence:
    """What was measured of one layer.

    Attributes:
        own: By rank, means over the captured steps of fraction and nulls.
        above_noise: By rank, whether the energy is significantly above that of noise.
        stale: By (rank, age in steps), mean fraction of a stale basis.
        shape: m and n.
    """

    own: pd.DataFrame
    above_noise: pd.Series[bool]
    stale: pd.Series[float]
    shape: tuple[int, int]

    @classmethod
    def of(cls, rows: pd.DataFrame) -> _Evidence:
        fresh = rows[rows["basis"] == "own"]
        own = fresh.groupby("rank")[["fraction", "null_noise", "null_isotropic"]].mean()
        stale = rows[rows["basis"] == "stale"].groupby(["rank", "lag_steps"])["fraction"].mean()
        return cls(own, above_noise(fresh, "rank"), stale, (int(fresh["m"].iloc[0]), int(fresh["n"].iloc[0])))

    @property
    def excess(self) -> pd.Series[float]:
        """By rank, energy fraction above that of noise."""
        return self.own["fraction"] - self.own["null_noise"]

    @property
    def saturated(self) -> int:
        """The smallest rank with nearly all of the largest excess; the smallest where none is above noise."""
        ranks = [int(rank) for rank in self.own.index]
        excess = self.excess.to_numpy()
        return ranks[int((excess >= SATURATION * excess.max()).argmax()) if self.above_noise.any() else 0]

    def choices(self) -> list[Choice]:
        """The ranks up to saturation, with what they gain and cost."""
        m, n = self.shape
        ranks = [int(rank) for rank in self.excess.index if rank <= self.saturated]
        return [Choice(rank, float(self.excess[rank]) * m * n, state_bytes(m, n, rank)) for rank in ranks]

    def plan(self, layer: str, rank: int, signal: _BulkSignal | None) -> LayerPlan:
        """The settings at a rank."""
        here: dict[Any, float] = self.own.loc[rank].to_dict()
        interval, retained, bound = _interval(self._retained(rank, here))
        significant = bool(self.above_noise.any())
        rule = "walk" if significant and bound != "at most" else "jump"
        return LayerPlan(
            layer=layer,
            rank=rank,
            excess=here["fraction"] - here["null_noise"],
            fraction=here["fraction"],
            null_noise=here["null_noise"],
            update_interval=None if rule == "jump" else interval,
            retained=retained,
            bound=bound,
            rank_bound=_rank_bound(rank, self.own.index.tolist()),
            above_noise=significant,
            rule=rule,
            walk_step=None if rule == "jump" or retained is None else _turned(retained),
            recovery="scaled" if 1 - here["fraction"] >= BULK and (signal is None or signal.significant) else "none",
            bulk=1 - here["fraction"],
            bulk_signal=None if signal is None else signal.share,
            state_bytes=state_bytes(*self.shape, rank),
        )

    def _retained(self, rank: int, here: Mapping[Any, float]) -> dict[int, float]:
        """By age, the share that a stale basis keeps of what an own one holds above r/m."""
        above = here["fraction"] - here["null_isotropic"]
        ages: dict[Any, float] = self.stale[self.stale.index.get_level_values("rank") == rank].droplevel(0).to_dict()
        return {age: (value - here["null_isotropic"]) / above if above > 0 else 0.0 for age, value in ages.items()}


def _turned(retained: float) -> float:
    """The angle in radians by which a basis turned that keeps this share; a walk that stood still would be none."""
    return max(math.acos(math.sqrt(min(retained, 1.0))), SMALLEST_STEP)


def _rank_bound(rank: int, measured: list[int]) -> str:
    """How the rank lies to the measured ones; no rank is below 1."""
    if len(measured) == 1:
        return "only"
    return "at least" if rank == measured[-1] else "at most" if rank == measured[0] > 1 else ""


def _interval(retained: Mapping[int, float]) -> tuple[int | None, float | None, str]:
    """The longest age before the share kept first falls below the retention, with the share and the bound."""
    ages = list(retained)
    if not ages:
        return None, None, ""
    kept = 0
    while kept < len(ages) and retained[ages[kept]] >= RETENTION:
        kept += 1
    age = ages[max(kept - 1, 0)]
    bound = "at most" if kept == 0 else "at least" if kept == len(ages) else ""
    return int(age), float(retained[age]), bound
