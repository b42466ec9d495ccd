"""From trials to variants: the best setting of each, means and spreads over seeds, paired differences, one interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from subspace_lab.analysis.significance import holm_intervals, interval
from subspace_lab.experiments.results import TRAINING
from subspace_lab.training.tasks.base import LOSS, Metric

TUNED = ("lr", "lr_rest", "beta2", "warmup")  # the settings that are chosen for each method
_FURTHER = ("captured", "setting")  # factors of some studies
_MEANS = (
    "train_loss", "state_bytes", "state_bytes_formula", "peak_bytes", "base_bytes", "step_s", "refresh_share", "tokens",
    "wall_s",
)  # fmt: skip


def summary(results: pd.DataFrame, metric: Metric = LOSS) -> pd.DataFrame:
    """One row per method, at its best setting; the method with the best mean of the metric comes first.

    ``gap`` is the mean difference to the method in the first row, paired by seed; its interval is adjusted for the
    number of methods (`subspace_lab.analysis.significance.holm_intervals`). Where the setting was chosen on seeds that
    the means are taken over, that flatters every method a little, more so with a finer grid.

    Args:
        results: A result table of trainings.
        metric: What the best setting and the gaps are by.

    Returns:
        method, lr, lr_rest, beta2, warmup (those that the results have), edge and edge_rest (``low``, ``high``,
        ``only`` or empty: whether the rate is the lowest or the highest that was tried), lrs (how many), seeds
        (complete ones), failed (trials at any setting that diverged, failed or were killed), the metric, eval_sd,
        eval_low, eval_high, gap, gap_low, gap_high, train_loss, train_sd, and means over the seeds of what else was
        measured.
    """
    results = latest(results)
    rows, values = [], {}
    for method, trials in results.groupby("method", sort=False):
        chosen = _at_best(trials, metric)
        complete = trials[chosen & _counts(trials)].set_index("seed")
        values[method] = complete[metric.name]
        names = [name for name in TUNED if name in trials]
        setting: dict[str, Any] = dict(zip(names, trials.loc[chosen, names].iloc[0], strict=True))
        rows.append({"method": method, **setting, **_grid(trials, setting), **_over_seeds(complete, metric)})
    table = pd.DataFrame(rows).sort_values(
        metric.name, kind="stable", ignore_index=True, ascending=metric.better == "lower"
    )
    first = values[table["method"].iloc[0]]
    differences = [(values[method] - first).dropna() for method in table["method"]]
    ends = [(0.0, 0.0) if len(differences[0]) > 1 else (np.nan, np.nan), *holm_intervals(differences[1:])]
    gaps = pd.DataFrame(ends, columns=["gap_low", "gap_high"])
    gaps.insert(0, "gap", [difference.mean() for difference in differences])
    place = list(table.columns).index("eval_high") + 1
    return pd.concat([table.iloc[:, :place], gaps, table.iloc[:, place:]], axis=1)


def best_setting(trials: pd.DataFrame, metric: Metric = LOSS, names: Sequence[str] = TUNED) -> dict[str, Any]:
    """The setting with the best mean of the metric over the seeds that were begun with all settings.

    So a setting may be tuned on few seeds and measured on more. A setting with which a trial failed comes after all
    with which none did; of equally good settings the lowest is chosen.

    Args:
        trials: The rows of one variant.
        metric: What the settings are compared by.
        names: Columns that make a setting; those that are not in the table are left out.

    Returns:
        Name to value.
    """
    by = [name for name in names if name in trials]
    begun = trials[~trials["status"].isin(["pending", "cut"])]
    if begun.empty:
        return dict(trials.iloc[0][by])
    finite = (begun["status"] == "complete") & np.isfinite(begun[metric.name])
    costs = (metric.sign * begun[metric.name]).where(finite, np.inf)
    by_setting: dict[Any, dict[int, float]] = {}
    for *setting, seed, cost in zip(*(begun[name] for name in by), begun["seed"], costs, strict=True):
        by_setting.setdefault(tuple(setting), {})[int(seed)] = float(cost)
    common = set.intersection(*map(set, by_setting.values()))

    def worth(setting: Any) -> tuple[int, float, Any]:
        found = np.array([cost for seed, cost in sorted(by_setting[setting].items()) if seed in common or not common])
        finite = found[np.isfinite(found)]
        return len(found) - len(finite), float(finite.mean()) if len(finite) else np.inf, setting

    return dict(zip(by, min(by_setting, key=worth), strict=True))


def best_rows(results: pd.DataFrame, methods: Sequence[str] | None = None, metric: Metric = LOSS) -> pd.DataFrame:
    """The complete trials of each method at its best setting, without captured runs.

    Returns:
        The rows of some methods (all by default), with ``edge``: whether the rate is the lowest or the highest that was
        tried.
    """
    results = latest(results)
    if "captured" in results:
        results = results[~results["captured"].astype(bool)]
    if results.empty:
        return results.assign(edge="") if "method" in results else pd.DataFrame()
    chosen = pd.concat([_at_best(trials, metric) for _, trials in results.groupby("method")])
    rows = results[chosen.reindex(results.index) & _counts(results)]
    if methods is not None:
        rows = rows[rows["method"].isin(list(methods))]
    tried = results.groupby("method")["lr"].agg(set)
    return rows.assign(edge=[_edge(lr, tried[method]) for lr, method in zip(rows["lr"], rows["method"], strict=True)])


def latest(results: pd.DataFrame) -> pd.DataFrame:
    """The last row of each combination of factors, that is the trial with today's defaults; rows are in their order."""
    factors = [name for name in (*TRAINING, *_FURTHER) if name in results and name != "phase"]
    return results[~results.duplicated(factors, keep="last")]


def paired(values: pd.Series[float], others: pd.Series[float]) -> dict[str, float]:
    """Mean difference over the seeds that both methods have: gap, gap_low, gap_high (95 %); NaN with too few seeds."""
    difference = (values - others).dropna()
    low, high = interval(difference)
    return {"gap": float(difference.mean()), "gap_low": low, "gap_high": high}


def pareto_front(table: pd.DataFrame, cost: str) -> pd.DataFrame:
    """The rows of a `summary` that no other one beats in ``eval_loss`` and in a cost, by that column.

    Costs that agree to three digits are equal: recovery adds one number per matrix to a state, which decides nothing.

    Args:
        table: Its rows.
        cost: A column of positive numbers.

    Returns:
        Some of the rows, the cheapest first.
    """
    size = table[cost].map(lambda value: float(f"{value:.3g}"))
    ordered = table.assign(size=size).sort_values(["size", "eval_loss"]).drop(columns="size")
    before = ordered["eval_loss"].cummin().shift()
    return ordered[before.isna() | (ordered["eval_loss"] < before)]


def _at_best(trials: pd.DataFrame, metric: Metric) -> pd.Series[bool]:
    """Which rows of a variant have its best setting: the one that was evaluated, where that was apart from tuning."""
    phases = trials["phase"] if "phase" in trials else pd.Series("evaluate", trials.index)
    setting = best_setting(trials, metric)
    if (phases == "tune").any() and (phases == "evaluate").any():
        evaluated = trials.loc[phases == "evaluate", [*setting]].drop_duplicates()
        if len(evaluated) == 1:  # of settings that are equally good it is one
            setting = dict(zip(setting, evaluated.iloc[0], strict=True))
    chosen = pd.Series(True, trials.index)
    for name, value in setting.items():
        chosen &= trials[name] == value
    return chosen


def _counts(trials: pd.DataFrame) -> pd.Series[bool]:
    """Which rows count for a result: complete ones, of the evaluation where it is apart from the tuning."""
    complete = trials["status"] == "complete"
    return complete & (trials["phase"] == "evaluate") if "phase" in trials else complete


def _edge(lr: float, tried: set[float]) -> str:
    """Whether a rate is the ``only`` one, or the ``low`` or ``high`` end of those that were tried."""
    if len(tried) == 1:
        return "only"
    return {min(tried): "low", max(tried): "high"}.get(lr, "")


def _grid(trials: pd.DataFrame, setting: Mapping[str, Any]) -> dict[str, Any]:
    """Whether the rates lie at the end of what was tried, how many were, and how many trials had no result."""
    edges = {
        edge: _edge(setting[name], set(trials[name]))
        for name, edge in (("lr", "edge"), ("lr_rest", "edge_rest"))
        if name in setting
    }
    failed = int(trials["status"].isin(["diverged", "failed", "killed"]).sum())
    return {**edges, "lrs": trials["lr"].nunique(), "failed": failed}


def _over_seeds(complete: pd.DataFrame, metric: Metric) -> dict[str, Any]:
    values = complete[metric.name]
    low, high = interval(values)
    means = {name: complete[name].astype("float64").mean() for name in _MEANS if name in complete}
    return {
        "seeds": len(complete), metric.name: values.mean(), "eval_sd": values.std(ddof=1), "eval_low": low,
        "eval_high": high, "train_loss": means.pop("train_loss"), "train_sd": complete["train_loss"].std(ddof=1),
        **means,
    }  # fmt: skip
