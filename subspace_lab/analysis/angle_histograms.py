"""Histograms of the cosines of principal angles between the gradients' spaces at different steps.

FRUGAL (arXiv 2411.07837) shows such histograms, between GaLore's projections at different steps and between random
ones, to argue that subspaces keep some directions and change most others as fast as chance would. Its model, layers,
rank and steps are not repeated here: all pairs of captures at a lag are counted, for all layers of a kind.

Legend: ``S1, S2 (m, r)`` top-r left singular bases of one layer at two captures; cosines are the singular values of
``S1^T S2``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from subspace_lab._checks import whole_number, whole_numbers
from subspace_lab.analysis.layer_step import Basis, Layer, Past, load_layer_step, narrow
from subspace_lab.analysis.ranks import check_rank
from subspace_lab.numerics import null_cosines, principal_angles
from subspace_lab.runs import Run, RunError

_WITH_BASES = ("full", "gram", "topk")


def angle_histograms(
    run: Run, *, rank: int | None = None, lags: int | Iterable[int] = (1, 4, 16), num_bins: int = 25
) -> pd.DataFrame:
    """Histograms of the cosines of principal angles between captures, by kind of layer and lag.

    Densities integrate to 1 over the cosines from 0 to 1. ``null_density`` is the same histogram for pairs of random
    subspaces of the same dimensions (`null_cosines`). A gradient with fewer than r directions that stand out of
    rounding is compared in those, and so is its null.

    Args:
        run: A run of ``keep="full"``, ``"gram"`` or ``"topk:K"`` (which limits the rank to K).
        rank: Rank r; None for a quarter of the median m. Layers with ``m <= r`` are left out: their whole space has
            no angles with itself.
        lags: How many captures lie between the two, one or several.
        num_bins: Bins of the histogram.

    Returns:
        One row per kind, m, lag and bin: kind, m, rank, lag_steps, bin_low, bin_high, count (cosines in the bin),
        density, null_density.

    Raises:
        ValueError: If the rank, a lag or the number of bins is not a positive integer, or every layer is left out.
        RunError: If the run is not sound, keeps no bases, or has no two captures at one of the lags.
    """
    r, chosen, num_bins = check_rank(run, rank), whole_numbers("lag", lags), whole_number("num_bins", num_bins)
    if not run.keep.startswith(_WITH_BASES):
        raise RunError(f"{run.path} kept {run.keep}, without bases; capture with keep='gram', 'full' or 'topk:K'")
    layers = [layer for layer in map(Layer.of, run.manifest["layers"]) if layer.m > r]
    if not layers:
        raise ValueError(f"rank {r} is the whole space of every layer of {run.path}; give a smaller rank")
    run.verify()
    edges = np.linspace(0, 1, num_bins + 1)
    groups: dict[tuple[str, int, int], list[np.ndarray]] = {}
    for layer in layers:
        for lag_steps, cosines in _pairs(run, layer, r, chosen):
            groups.setdefault((layer.kind, layer.m, lag_steps), []).append(cosines)
    if not groups:
        raise RunError(f"{run.path} has no two captures that are {chosen[0]} apart; let the run take more steps")
    return pd.concat([_histogram(*key, r, pairs, edges) for key, pairs in groups.items()], ignore_index=True)


def _pairs(run: Run, layer: Layer, rank: int, lags: tuple[int, ...]) -> Iterator[tuple[int, np.ndarray]]:
    """Steps between and cosines of all pairs of captures of a layer at the lags; only the last few bases are held."""
    recent: deque[Basis | None] = deque(maxlen=lags[-1])
    for step in run.steps:
        with run.snapshot(step) as snapshot:
            frame = load_layer_step(run, snapshot, layer, num_vectors=rank, residual=False, past=Past(deque(), 0))
        basis = None if frame is None else frame.basis
        for lag in lags:
            earlier = recent[-lag] if lag <= len(recent) else None
            if basis is not None and earlier is not None:
                yield step - earlier.step, _cosines(earlier, basis)
        recent.append(basis)


def _cosines(first: Basis, second: Basis) -> np.ndarray:
    r = min(first.S.shape[1], second.S.shape[1], first.num_determined, second.num_determined)
    return np.asarray(principal_angles(narrow(first.S, r), narrow(second.S, r)).cos())


def _histogram(
    kind: str, m: int, lag_steps: int, rank: int, pairs: list[np.ndarray], edges: np.ndarray
) -> pd.DataFrame:
    counts = np.histogram(np.concatenate(pairs), edges)[0]
    dimensions, times = np.unique([len(cosines) for cosines in pairs], return_counts=True)
    expected = sum(
        r * number * np.diff(null_cosines(edges, int(r), m)) for r, number in zip(dimensions, times, strict=True)
    )
    per_density = counts.sum() * np.diff(edges)
    return pd.DataFrame({
        "kind": kind, "m": m, "rank": rank, "lag_steps": lag_steps, "bin_low": edges[:-1], "bin_high": edges[1:],
        "count": counts, "density": counts / per_density, "null_density": expected / per_density,
    })  # fmt: skip
