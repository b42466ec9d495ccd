"""What a run's tables say, in plain words with their numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from subspace_lab.analysis.arguments import telling_rank
from subspace_lab.runs import Run

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        title: What it is about.
        text: One or two sentences.
        numbers: The numbers in them, by name; fractions and ratios in [0, 1], angles in degrees.
    """

    title: str
    text: str
    numbers: dict[str, float]


def findings(run: Run) -> list[Finding]:
    """Core energy against its null, its trend over training and depth, the drift of the subspace, the curvature.

    Spreads and intervals are over layers (or kinds of layers) of this one run; layers of one model are not
    independent, so the intervals are optimistic, and other seeds are not in them.

    Args:
        run: A run that was analysed.

    Returns:
        The findings for which the run holds what they need, in this order.

    Raises:
        RunError: If the run was not analysed yet.
    """
    energy = run.table("energy")
    energy = energy.dropna(subset=["fraction"])
    if not (energy["basis"] == "own").any():
        return []
    rank = telling_rank(run, energy)
    energy = energy[energy["rank"] == rank]
    own = energy[energy["basis"] == "own"]
    found = [_core(own, rank), _trend(own), _drift(run.table("angles"), energy), _flatness(run.table("curvature"))]
    return [finding for finding in found if finding is not None]


def _core(own: pd.DataFrame, rank: int) -> Finding:
    layers = own.groupby("layer", observed=True)[["fraction", "null_noise", "null_isotropic"]].mean()
    above = int((layers["fraction"] > layers["null_noise"]).sum())
    mean, low, high = layers["fraction"].mean(), layers["fraction"].min(), layers["fraction"].max()
    noise, isotropic = layers["null_noise"].mean(), layers["null_isotropic"].mean()
    text = (
        f"A gradient's own top-{rank} subspace holds {mean:.1%} of its energy (layers from {low:.1%} to {high:.1%}), "
        f"a ratio of {np.sqrt(mean):.3f}. Pure noise of the same shapes would give {noise:.1%}, and {isotropic:.1%} to "
        f"a basis chosen blindly; {above} of {len(layers)} layers lie above the noise. This rejects isotropic noise "
        "and no more."
    )
    numbers = {"rank": rank, "fraction": mean, "lowest": low, "highest": high, "null_noise": noise,
               "null_isotropic": isotropic, "layers_above": above, "layers": len(layers)}  # fmt: skip
    return Finding("Core energy against its null", text, {name: float(value) for name, value in numbers.items()})


def _trend(own: pd.DataFrame) -> Finding | None:
    thirds = _thirds(own)
    parts: list[str] = []
    numbers: dict[str, float] = {}
    if thirds is not None:
        ratios = [part.groupby("layer", observed=True)["ratio"].mean() for part in thirds]
        change = (ratios[1] - ratios[0]).dropna()
        text, interval = _change(change.to_numpy())
        falling = int((change < 0).sum())
        parts.append(
            f"From the first to the last third of training the energy ratio {text}; it falls in {falling} of "
            f"{len(change)} layers."
        )
        numbers |= {"training_change": float(change.mean()), "falling": float(falling), **interval}
    slopes = _depth_changes(own)
    if len(slopes) > 0:
        text, _ = _change(slopes)
        parts.append(
            f"From the first to the last block the energy ratio {text} (mean over {len(slopes)} kinds of layers)."
        )
        numbers["depth_change"] = float(slopes.mean())
    return Finding("Trend over training and depth", " ".join(parts), numbers) if parts else None


def _drift(angles: pd.DataFrame, energy: pd.DataFrame) -> Finding | None:
    previous = angles[angles["comparison"] == "previous"]
    if previous.empty:
        return None
    lag = int((previous["step"] - previous["reference_step"]).median())
    overlap, null, mean_deg = (float(previous[name].mean()) for name in ("overlap", "null_overlap", "mean_deg"))
    spread = float(previous.groupby("layer", observed=True)["overlap"].mean().std(ddof=0))
    text = (
        f"Over {lag} steps the top-{previous['rank'].iloc[0]} subspace turns by {mean_deg:.0f} degrees on average and "
        f"keeps an overlap of {overlap:.2f} (± {spread:.2f} over layers) with "
        f"itself, where two random subspaces share {null:.2f}."
    )
    numbers = {"lag_steps": float(lag), "mean_deg": mean_deg, "overlap": overlap, "null_overlap": null}
    stale = energy[energy["basis"] == "stale"]
    if not stale.empty:
        held = stale.groupby("lag_steps")["fraction"].mean()
        fresh = float(energy[energy["basis"] == "own"]["fraction"].mean())
        text += (
            f" A top-{stale['rank'].iloc[0]} basis that is {held.index[0]} steps old holds {held.iloc[0]:.0%} of the "
            f"energy, "
            + (f"one of {held.index[-1]} steps {held.iloc[-1]:.0%}, " if len(held) > 1 else "")
            + f"a fresh one {fresh:.0%}."
        )
        numbers |= {"stale_fraction": float(held.iloc[0]), "oldest_fraction": float(held.iloc[-1])}
    return Finding("Drift of the subspace", text, numbers)


def _flatness(curvature: pd.DataFrame) -> Finding | None:
    curvature = curvature.dropna(subset=["normalized"])
    top = curvature[curvature["index"] == 0]
    if top.empty:
        return None
    kinds = top.groupby("kind", observed=True)["normalized"].mean().sort_values()
    mean, null = float(top["normalized"].mean()), float(top["null_noise"].mean())
    text = (
        f"The largest singular value of the subspace error's derivative is {mean:.2g} of the gradient's squared norm "
        f"(noise at a blind basis: {null:.2g}), largest for {kinds.index[-1]} ({kinds.iloc[-1]:.2g})"
        + (f" and smallest for {kinds.index[0]} ({kinds.iloc[0]:.2g})." if len(kinds) > 1 else ".")
    )
    numbers = {"normalized": mean, "null_noise": null}
    thirds = _thirds(curvature)
    if thirds is not None:
        flat = [_evenness(part) for part in thirds]
        text += f" The last tabulated value over the first goes from {flat[0]:.2g} early to {flat[1]:.2g} late."
        numbers |= {"evenness_early": flat[0], "evenness_late": flat[1]}
    return Finding("Curvature of the subspace error", text, numbers)


def _evenness(curvature: pd.DataFrame) -> float:
    """The smallest tabulated singular value over the largest, mean over steps and layers."""
    values = curvature[curvature["normalized"] > 0].groupby(["step", "layer", "lag_steps"], observed=True)["normalized"]
    return float((values.min() / values.max()).mean())


def _thirds(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """The rows of the first and of the last third of the captured steps, or None for fewer than three steps."""
    steps = np.sort(table["step"].unique())
    size = len(steps) // 3
    if size == 0:
        return None
    return table[table["step"] <= steps[size - 1]], table[table["step"] >= steps[-size]]


def _depth_changes(own: pd.DataFrame) -> np.ndarray:
    """Per kind of layer, the change of the ratio from the first to the last block along a fitted line."""
    from scipy import stats

    blocks = own[own["depth"] >= 0].groupby(["kind", "depth"], observed=True)["ratio"].mean().reset_index()
    changes = []
    for _, kind in blocks.groupby("kind", observed=True):
        if len(kind) > 1:
            slope = stats.linregress(kind["depth"], kind["ratio"]).slope
            changes.append(slope * (kind["depth"].max() - kind["depth"].min()))
    return np.array(changes)


def _change(values: np.ndarray) -> tuple[str, dict[str, float]]:
    """A change in words with its 95 % interval (Student's t over the values)."""
    from scipy import stats

    mean = float(values.mean())
    verb = "rises" if mean > 0 else "falls"
    if len(values) < 2:
        return f"{verb} by {abs(mean):.3f}", {}
    low, high = map(float, stats.ttest_1samp(values, 0).confidence_interval(0.95))
    interval = {"low": low, "high": high}
    if low < 0 < high:
        return f"shows no clear trend: {mean:+.3f} (95 % interval {low:+.3f} to {high:+.3f})", interval
    return f"{verb} by {abs(mean):.3f} (95 % interval of the change {low:+.3f} to {high:+.3f})", interval
