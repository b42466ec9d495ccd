"""What a run's tables say, in plain words with their numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from subspace_lab._text import alike, count, percent, signed
from subspace_lab.analysis.ranks import telling_rank
from subspace_lab.analysis.significance import above_chance, above_noise, interval
from subspace_lab.analysis.trends import change_over_depth, change_over_training, evenness, thirds
from subspace_lab.runs import Run
from subspace_lab.runs.run import check_run
from subspace_lab.runs.tables import TABLES

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
    check_run(run)
    energy = run.table("energy", TABLES["energy"]).dropna(subset=["fraction"])
    if not (energy["basis"] == "own").any():
        return []
    rank = telling_rank(run, energy)
    energy = energy[energy["rank"] == rank]
    own = energy[energy["basis"] == "own"]
    significant = above_noise(own, "layer")
    found = [
        _core(own, significant),
        _trend(own, significant=bool(significant.any())),
        _drift(run.table("angles", TABLES["angles"]), energy),
        _flatness(run.table("curvature", TABLES["curvature"])),
    ]
    return [finding for finding in found if finding is not None]


def _core(own: pd.DataFrame, significant: pd.Series[bool]) -> Finding:
    layers = own.groupby("layer", observed=True)[["fraction", "null_noise", "null_isotropic"]].mean()
    above, rank, steps = int(significant.sum()), int(own["rank"].iloc[0]), own["step"].nunique()
    mean, low, high = layers["fraction"].mean(), layers["fraction"].min(), layers["fraction"].max()
    noise, isotropic = layers["null_noise"].mean(), layers["null_isotropic"].mean()
    spread = f"layers from {percent(low)} to {percent(high)}, " if len(layers) > 1 else ""
    text = (
        f"A gradient's own top-{rank} subspace holds {percent(mean)} of its energy ({spread}"
        f"{'mean over ' if steps > 1 else ''}{count(steps, 'captured step')}), a ratio of {np.sqrt(mean):.3f}. Pure "
        f"noise of the same shapes would give {percent(noise)}, and {percent(isotropic)} to a basis chosen blindly; "
        f"{_above(above, len(layers))} by more than noise scatters. "
        + (
            "This rejects isotropic noise and no more."
            if above
            else "Nothing here is significantly above isotropic noise."
        )
    )
    numbers = {"rank": rank, "fraction": mean, "lowest": low, "highest": high, "null_noise": noise,
               "null_isotropic": isotropic, "layers_above": above, "layers": len(layers)}  # fmt: skip
    return Finding("Core energy against its null", text, {name: float(value) for name, value in numbers.items()})


def _above(above: int, layers: int) -> str:
    if layers == 1:
        return f"the one layer {'lies' if above else 'does not lie'} above the noise"
    if above in {0, layers}:
        every = "both" if layers == 2 else f"all {layers}"
        return f"{every} layers lie above the noise" if above else f"none of {layers} layers lies above the noise"
    return f"{above} of {layers} layers {'lies' if above == 1 else 'lie'} above the noise"


def _trend(own: pd.DataFrame, *, significant: bool) -> Finding | None:
    parts: list[str] = []
    numbers: dict[str, float] = {}
    change = change_over_training(own)
    if own["step"].nunique() > 2 and len(change) > 0:
        early, middle, late = (_mean_of_layers(own[own["step"].isin(part)]) for part in thirds(own["step"]))
        text, interval = _change(change, "layer", significant=significant)
        falling = int((change < 0).sum())
        parts.append(
            f"The energy ratio is {early:.3f} in the first third of the captured steps, {middle:.3f} in the middle "
            f"and {late:.3f} in the last. From the first to the last it {text}"
            + (f"; it falls in {falling} of {len(change)} layers." if len(change) > 1 else ".")
        )
        numbers |= {"training_change": float(change.mean()), "falling": float(falling), **interval}
        numbers |= {"early": early, "middle": middle, "late": late}
    change = change_over_depth(own)
    if len(change) > 0:
        text, _ = _change(change, "kind of layer", significant=significant)
        over = f", mean over {len(change)} kinds of layers" if len(change) > 1 else ""
        parts.append(f"From the first to the last block the energy ratio {text}{over}.")
        numbers["depth_change"] = float(change.mean())
    return Finding("Trend over training and depth", " ".join(parts), numbers) if parts else None


def _mean_of_layers(own: pd.DataFrame) -> float:
    return float(own.groupby("layer", observed=True)["ratio"].mean().mean())


def _drift(angles: pd.DataFrame, energy: pd.DataFrame) -> Finding | None:
    previous = angles[angles["comparison"] == "previous"].dropna(subset=["overlap"])
    if previous.empty:
        return None
    lag = int((previous["step"] - previous["reference_step"]).median())
    overlap, null, mean_deg = (float(previous[name].mean()) for name in ("overlap", "null_overlap", "mean_deg"))
    layers = previous.groupby("layer", observed=True)["overlap"].mean()
    spread = f" (± {layers.std(ddof=0):.2f} over layers)" if len(layers) > 1 else ""
    text = (
        f"Over {count(lag, 'step')} the top-{previous['rank'].iloc[0]} subspace turns by {mean_deg:.0f} degrees on "
        f"average and keeps an overlap of {overlap:.2f}{spread} with itself, where two random subspaces share "
        f"{null:.2f}"
    )
    unrelated = ": no more than chance, so that successive captures may as well be unrelated."
    text += "." if above_chance(previous, int(energy["m"].min())) else unrelated
    numbers = {"lag_steps": float(lag), "mean_deg": mean_deg, "overlap": overlap, "null_overlap": null}
    stale = energy[energy["basis"] == "stale"]
    if not stale.empty:
        held = stale.groupby("lag_steps")["fraction"].mean()
        fresh = float(energy[energy["basis"] == "own"]["fraction"].mean())
        text += (
            f" A top-{stale['rank'].iloc[0]} basis that is {count(held.index[0], 'step')} old holds "
            f"{percent(held.iloc[0])} of the energy, "
            + (f"one of {held.index[-1]} steps {percent(held.iloc[-1])}, " if len(held) > 1 else "")
            + f"a fresh one {percent(fresh)}, one chosen blindly {percent(stale['null_isotropic'].mean())}."
        )
        numbers |= {"stale_fraction": float(held.iloc[0]), "oldest_fraction": float(held.iloc[-1])}
    return Finding("Drift of the subspace", text, numbers)


def _flatness(curvature: pd.DataFrame) -> Finding | None:
    curvature = curvature.dropna(subset=["normalized"])
    top = curvature[(curvature["index"] == 0) & (curvature["normalized"] > 0)]
    if top.empty:
        return None
    kinds = top.groupby("kind", observed=True)["normalized"].mean().sort_values()
    mean, null = float(top["normalized"].mean()), float(top["null_noise"].mean())
    mean_text, null_text, high, low = alike(mean, null, kinds.iloc[-1], kinds.iloc[0])
    text = (
        f"The largest singular value of the subspace error's derivative is {mean_text} of the gradient's squared norm "
        f"(noise at a blind basis: {null_text})"
        + (f", largest for {kinds.index[-1]} ({high}) and smallest for {kinds.index[0]} ({low})." * (len(kinds) > 1))
        + "." * (len(kinds) == 1)
    )
    numbers = {"normalized": mean, "null_noise": null}
    if top["step"].nunique() > 2 and (shown := int(curvature["index"].max()) + 1) > 1:
        first, _, last = thirds(top["step"])
        flat = [float(evenness(curvature[curvature["step"].isin(part)]).mean()) for part in (first, last)]
        early, late = alike(*flat)
        text += f" The smallest of its {shown} tabulated values over the largest is {early} early and {late} late."
        numbers |= {"evenness_early": flat[0], "evenness_late": flat[1]}
    return Finding("Curvature of the subspace error", text, numbers)


def _change(values: pd.Series[float], of: str, *, significant: bool) -> tuple[str, dict[str, float]]:
    """A change in words with its 95 % interval (Student's t over the values); a verdict only where significant."""
    mean = float(values.mean())
    if len(values) < 2:
        return f"changes by {signed(mean)} (one {of} only, so that there is no interval)", {}
    low, high = interval(values)
    ends = {"low": low, "high": high}
    if not significant or not (low > 0 or high < 0) or float(signed(mean)) == 0:
        verdict = "shows no clear trend" if significant else "shows no trend to trust, as no layer lies above noise"
        return f"{verdict}: {signed(mean)} (95 % interval {signed(low)} to {signed(high)})", ends
    verb = "rises" if mean > 0 else "falls"
    return f"{verb} by {abs(mean):.3f} (95 % interval of the change {signed(low)} to {signed(high)})", ends
