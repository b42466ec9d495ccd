"""From cells to methods: the best learning rate of each, means and spreads over seeds, paired differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

CONFIDENCE = 0.95
_MEANS = (
    "train_loss",
    "state_bytes",
    "state_bytes_formula",
    "peak_bytes",
    "base_bytes",
    "step_s",
    "refresh_share",
    "tokens",
    "wall_s",
)


def summary(results: pd.DataFrame) -> pd.DataFrame:
    """One row per method, at its best learning rate; the method with the lowest held-out loss comes first.

    The best learning rate is that with the lowest mean held-out loss over the seeds that were begun at all learning
    rates of the method (so that one may be tuned on few seeds and measured on more); one at which a cell failed comes
    after all at which none did. ``gap`` is the mean difference to the method in the first row, paired by seed; the
    intervals are those of Student's t. Both the choice of the learning rate and the losses rest on the same seeds,
    which flatters every method a little, more so with a finer grid.

    Args:
        results: Of `results_table`.

    Returns:
        method, lr, edge (``low``, ``high``, ``only`` or empty: whether it is at an end of the grid), lrs (how many),
        seeds (complete ones), failed (cells at any learning rate that diverged, failed or were killed), eval_loss,
        eval_sd, eval_low, eval_high, gap, gap_low, gap_high, train_loss, train_sd, and means over the seeds of what
        else was measured.
    """
    rows, losses = [], {}
    for method, cells in results.groupby("method", sort=False):
        lr = best_lr(cells)
        chosen = cells[(cells["lr"] == lr) & (cells["status"] == "complete")].set_index("seed")
        losses[method] = chosen["eval_loss"]
        rows.append({"method": method, "lr": lr, **_grid(cells, lr), **_over_seeds(chosen)})
    table = pd.DataFrame(rows).sort_values("eval_loss", kind="stable", ignore_index=True)
    best = losses[table["method"].iloc[0]]
    gaps = pd.DataFrame([paired(losses[method], best) for method in table["method"]])
    place = list(table.columns).index("eval_high") + 1
    return pd.concat([table.iloc[:, :place], gaps, table.iloc[:, place:]], axis=1)


def best_lr(cells: pd.DataFrame) -> float:
    """The best learning rate of a method.

    Args:
        cells: The rows of the method.

    Returns:
        The learning rate; the lowest of those that are equally good.
    """
    begun = cells[~cells["status"].isin(["pending", "cut"])]
    if begun.empty:
        return float(cells["lr"].iloc[0])
    finite = (begun["status"] == "complete") & np.isfinite(begun["eval_loss"])
    by_lr: dict[float, dict[int, float]] = {}
    for lr, seed, loss in zip(begun["lr"], begun["seed"], begun["eval_loss"].where(finite, np.inf), strict=True):
        by_lr.setdefault(float(lr), {})[int(seed)] = float(loss)
    common = set.intersection(*map(set, by_lr.values()))

    def worth(lr: float) -> tuple[int, float, float]:
        losses = np.array([loss for seed, loss in sorted(by_lr[lr].items()) if seed in common or not common])
        return int(np.isinf(losses).sum()), _finite_mean(losses), lr

    return min(by_lr, key=worth)


def paired(losses: pd.Series[float], best: pd.Series[float]) -> dict[str, float]:
    """Mean difference of two methods over the seeds that both have, with its interval.

    Args:
        losses: By seed.
        best: By seed.

    Returns:
        gap, gap_low, gap_high; NaN where there are too few seeds.
    """
    difference = (losses - best).dropna()
    low, high = interval(difference)
    return {"gap": float(difference.mean()), "gap_low": low, "gap_high": high}


def interval(values: pd.Series[float]) -> tuple[float, float]:
    """Student's interval of a mean; NaN of fewer than two values.

    Args:
        values: The sample.

    Returns:
        Its lower and its upper end.
    """
    if len(values) < 2:
        return np.nan, np.nan
    error = float(stats.sem(values))
    if error == 0:
        return float(values.mean()), float(values.mean())
    low, high = stats.t.interval(CONFIDENCE, len(values) - 1, loc=values.mean(), scale=error)
    return float(low), float(high)


def _finite_mean(losses: np.ndarray) -> float:
    finite = losses[np.isfinite(losses)]
    return float(finite.mean()) if len(finite) else np.inf


def _grid(cells: pd.DataFrame, lr: float) -> dict[str, Any]:
    lrs = sorted(set(cells["lr"]))
    ends = {lrs[0]: "low", lrs[-1]: "high"} if len(lrs) > 1 else {lr: "only"}
    failed = int(cells["status"].isin(["diverged", "failed", "killed"]).sum())
    return {"edge": ends.get(lr, ""), "lrs": len(lrs), "failed": failed}


def _over_seeds(chosen: pd.DataFrame) -> dict[str, Any]:
    low, high = interval(chosen["eval_loss"])
    spread = {"eval_loss": chosen["eval_loss"].mean(), "eval_sd": chosen["eval_loss"].std(ddof=1)}
    means = {name: chosen[name].astype("float64").mean() for name in _MEANS}
    return {
        "seeds": len(chosen), **spread, "eval_low": low, "eval_high": high,
        "train_loss": means.pop("train_loss"), "train_sd": chosen["train_loss"].std(ddof=1), **means,
    }  # fmt: skip
