"""Minimizing Ackley's function in subspaces: how the rule for the basis fares where the slope misleads.

SubTrack++ (arXiv 2502.01586, Fig. 6) shows trajectories of tracking and of GaLore's SVD on Ackley's function: 100
steps, a refresh every 10, scale factors 1 and 3. By its text, GaLore at scale 1 makes abrupt jumps and does not reach
the minimum, at scale 3 reaches it by longer jumps, and tracking is robust. The text does not state dimensions, rank,
learning rate and starting points. **Those are chosen here**: the arguments of the function are the entries of a 16 x 16
matrix, the rank is m/4, and every seed draws its own starting point. This asks the paper's question in another setting;
it does not repeat its trajectories.

A scale factor only multiplies the learning rate, so two scales are two learning rates; neighbouring scales and
full-rank AdamW are measured too. The null of every rule is a basis that is never refreshed (frozen): alone for the SVD
and for tracking alone, with transport and recovery for the others.

Legend: W (m, m) the matrix; d = m^2 its entries; r rank.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator
from torch import Tensor

from subspace_lab import optim
from subspace_lab.figures.axis import log_axis, step_axis
from subspace_lab.figures.labels import end_labels
from subspace_lab.figures.panels import grid, line_style
from subspace_lab.figures.style import Layout, picture
from subspace_lab.figures.tables import AbsentError
from subspace_lab.studies.grass_paper.quantity import PaperStore, Quantity

SCALES = (0.3, 1.0, 3.0, 10.0)  # the paper's are 1 and 3
_ALONE: dict[str, Any] = {"moments": "keep", "recovery": "none"}  # as GaLore, but for the rule
_WHOLE: dict[str, Any] = {"moments": "transport", "recovery": "scaled"}  # as SubTrack, GrassWalk and GrassJump
_REACH = 5.0  # starting points are uniform in a cube from -5 to 5

_COLUMNS = ["method", "scale", "seed", "step", "value", "move"]
Make = Callable[..., torch.optim.Optimizer]
METHODS: dict[str, tuple[Make, dict[str, Any]]] = {
    "GaLore (SVD)": (optim.GaLore, {}),
    "tracking alone": (optim.SubspaceAdam, {"rule": "track", **_ALONE}),
    "frozen alone": (optim.SubspaceAdam, {"rule": "frozen", **_ALONE}),
    "frozen": (optim.SubspaceAdam, {"rule": "frozen", **_WHOLE}),
    "SubTrack": (optim.SubTrack, {}),
    "GrassWalk": (optim.GrassWalk, {}),
    "GrassJump": (optim.GrassJump, {}),
}
FULL_RANK = "AdamW"


def ackley(W: Tensor) -> Tensor:
    """Ackley's function of all entries of a matrix: one deep minimum, 0 at the origin, among many shallow ones.

    ``20 + e - 20 exp(-0.2 sqrt(mean w^2)) - exp(mean cos(2 pi w))``: nearly flat far out, with a minimum near every
    point of whole coordinates.

    Args:
        W: Any shape.

    Returns:
        A scalar, at least 0.

    >>> round(float(ackley(torch.zeros(2, 2))), 5), round(float(ackley(torch.ones(2, 2))), 3)
    (0.0, 3.625)
    """
    bowl = 20 * torch.exp(-0.2 * W.square().mean().sqrt())
    return 20 + math.e - bowl - torch.exp(torch.cos(2 * math.pi * W).mean())


def descents(
    *,
    scales: Iterable[float] = SCALES,
    num_seeds: int = 8,
    steps: int = 100,
    size: int = 16,
    rank: int = 4,
    lr: float = 1.0,
    update_interval: int = 10,
) -> pd.DataFrame:
    """Minimize Ackley's function with every method, at every scale, from several starting points.

    Args:
        scales: Scale factors; each multiplies the learning rate.
        num_seeds: Starting points, the same for all methods and scales; the seed also draws walks and jumps.
        steps: Optimizer steps.
        size: Rows m and columns of the matrix.
        rank: Rank r of the subspaces.
        lr: Learning rate, before the scale.
        update_interval: Steps from refresh to refresh.

    Returns:
        One row per method, scale, seed and step: method, scale, seed, step (0 is the start), value, move (Frobenius
        norm of the change of W that led there; NaN at the start).

    Raises:
        ValueError: If there is no scale, seed or step, or the rank exceeds the size.
    """
    scales = tuple(scales)
    if not scales or min(num_seeds, steps, rank) < 1:
        raise ValueError(
            f"at least one scale, seed and step and a rank of 1 are needed, got scales={scales}, "
            f"num_seeds={num_seeds}, steps={steps}, rank={rank}"
        )
    if rank > size:
        raise ValueError(f"rank {rank} is larger than the matrix, which has {size} rows; give a larger size")

    def optimizer(method: str, W: Tensor, scale: float, seed: int) -> torch.optim.Optimizer:
        if method == FULL_RANK:
            return torch.optim.AdamW([W], lr=lr * scale, weight_decay=0.0)
        make, options = METHODS[method]
        groups = [{"params": [W], "rank": rank}]
        return make(groups, lr=lr, scale=scale, seed=seed, update_interval=update_interval, **options)

    found = []
    for method, scale, seed in itertools.product((*METHODS, FULL_RANK), scales, range(num_seeds)):
        W = starting_point(size, seed).requires_grad_()
        path = _descent(W, optimizer(method, W, scale, seed), steps)
        found.append(path.assign(method=method, scale=scale, seed=seed)[_COLUMNS])
    return pd.concat(found, ignore_index=True)


def _descent(W: Tensor, optimizer: torch.optim.Optimizer, steps: int) -> pd.DataFrame:
    values, moves = [], [math.nan]
    for _ in range(steps):
        optimizer.zero_grad()
        value = ackley(W)
        value.backward()  # type: ignore[no-untyped-call]
        before = W.detach().clone()
        optimizer.step()
        values.append(value.item())
        moves.append((W.detach() - before).norm().item())
    values.append(ackley(W.detach()).item())
    return pd.DataFrame({"step": range(steps + 1), "value": values, "move": moves})


def starting_point(size: int, seed: int) -> Tensor:
    """Where a seed starts: a float64 matrix (size, size), uniform between -5 and 5."""
    generator = torch.Generator().manual_seed(seed)
    return _REACH * (2 * torch.rand(size, size, generator=generator, dtype=torch.float64) - 1)


def measure(store: PaperStore) -> pd.DataFrame:
    """`descents` with its defaults; the profile ``smoke`` has fewer and shorter ones."""
    if store.profile.name == "smoke":
        return descents(scales=(1.0, 3.0), num_seeds=2, steps=12, size=8, rank=2)
    return descents()


_SHOWN = (1.0, 3.0)


@picture(
    "Ackley's function in subspaces",
    "Value of the function over the steps (its minimum is 0). Lines are medians over starting points, bands the "
    "middle half. The function is minimized over the entries of a 16 × 16 matrix, at rank 4 with a refresh every 10 "
    "steps. The scale factors are those of the published figure; its other settings are not known. The scale only "
    "multiplies the learning rate, so the two panels are two learning rates, and the best learning rate may differ "
    "between methods: see the values by scale before ranking methods. The reference is a basis that is never "
    'refreshed: "frozen alone" for GaLore and tracking alone, "frozen" for the methods that transport moments and '
    "recover the rest of the gradient.",
)
def values_by_step(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw the values over the steps, a panel per scale."""
    curves = _by_scale(table, "value")
    half, ylabel = layout.at_most(layout.columns // 2), "value of Ackley's function"
    figure, axes = grid(half, list(curves), xlabel="step", ylabel=ylabel, height=2.6)
    methods = list(dict.fromkeys(table["method"]))
    top = max(float(curve["high"].max()) for curve in curves.values())
    for name, ax in axes.items():
        ax.set_ylim(0, 1.05 * top)
        step_axis(ax)
        ends = {}
        for place, method in enumerate(methods):
            curve, style = curves[name].loc[method].dropna(), line_style(place)
            every = max(1, len(curve) // 6)
            ax.fill_between(curve.index, curve["low"], curve["high"], color=style["color"], alpha=0.18, linewidth=0)
            ax.plot(curve.index, curve["middle"], **style, markevery=(place * every // len(methods), every))
            ends[method] = (float(curve.index[-1]), float(curve["middle"].iloc[-1]), style["color"])
        end_labels(ax, ends, layout)
    return figure


def _by_scale(table: pd.DataFrame, column: str) -> dict[str, pd.DataFrame]:
    """The quartiles by method and step at the scales that are shown, by their names."""
    rows = table[table["scale"].isin(_SHOWN)].dropna(subset=[column])
    if rows.empty:
        raise AbsentError("Neither scale 1 nor scale 3 was measured.")
    return {f"scale {scale:g}": _quartiles(of_scale, column) for scale, of_scale in rows.groupby("scale")}


def _quartiles(rows: pd.DataFrame, column: str, by: str = "step") -> pd.DataFrame:
    """Quartiles of a column over the seeds (low, middle, high) by method, and step or scale."""
    summary = rows.groupby(["method", by])[column].quantile(np.array([0.25, 0.5, 0.75])).unstack()
    return summary.set_axis(["low", "middle", "high"], axis=1)


@picture(
    "Ackley's function: the value reached by scale",
    "Value after the last step against the scale factor, which multiplies the learning rate. Lines are medians over "
    "starting points, bars the middle half. Compare methods at their lowest points: at a single scale the order of "
    "methods may reflect only the length of their steps. Values above 20 belong to the flat region far from the "
    "minimum, which too long steps lead to.",
)
def values_by_scale(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw the values after the last step over the scales."""
    last = table[table["step"] == table["step"].max()]
    summary, scales = _quartiles(last, "value", by="scale"), sorted(set(last["scale"]))
    figure = Figure(figsize=(layout.width, 3.2), layout="constrained")
    ax = figure.subplots()
    ax.set_ylim(0, 1.05 * float(summary["high"].max()))
    log_axis(ax, x=True, low=scales[0], high=scales[-1])
    ax.xaxis.set_major_locator(FixedLocator(scales))
    methods = list(dict.fromkeys(table["method"]))
    for place, method in enumerate(methods):
        rows, style = summary.loc[method], line_style(place)
        aside = rows.index * 1.2 ** (place / max(1, len(methods) - 1) - 0.5)  # so that bars do not cover one another
        bars = (rows["middle"] - rows["low"], rows["high"] - rows["middle"])
        ax.errorbar(aside, rows["middle"], bars, **style, elinewidth=0.8, label=method)
    ax.set(xlabel="scale factor", ylabel="value after the last step")
    if layout.columns <= 2:
        figure.legend(loc="outside lower left", ncols=2)
    else:
        figure.legend(loc="outside right upper")
    return figure


@picture(
    "Ackley's function: length of the steps",
    "Frobenius norm of each step, one panel per method. Lines are medians over starting points, bands the middle "
    "half; the lower line is scale factor 1, the upper one 3. The basis is refreshed before steps 11, 21, ...: a peak "
    "at these steps is the abrupt jump that the published figure attributes to the SVD. Compare the peaks within a "
    "line rather than the level between methods, which depends on the recovered part of the gradient and its limiter.",
)
def step_lengths(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw the lengths of the steps, a panel per method."""
    curves = _by_scale(table, "move")
    styles = {scale: {**line_style(place), "marker": ""} for place, scale in enumerate(curves)}
    key = [Line2D([], [], label=scale, **style) for scale, style in styles.items()]
    methods = list(dict.fromkeys(table["method"]))
    figure, axes = grid(layout, methods, xlabel="step", ylabel="length of the step, ‖ΔW‖", key=key)
    everything = pd.concat(curves.values())
    low, high = float(everything["low"].clip(lower=1e-3).min()), float(everything["high"].max())
    for method, ax in axes.items():
        log_axis(ax, low=low, high=high)
        ax.set_ylim(low / 1.3, high * 1.3)
        step_axis(ax)
        for scale, curve in curves.items():
            rows, style = curve.loc[method], styles[scale]
            ax.fill_between(rows.index, rows["low"], rows["high"], color=style["color"], alpha=0.2, linewidth=0)
            ax.plot(rows.index, rows["middle"], **style)
    return figure


QUANTITY = Quantity(
    title="Ackley's function",
    measure=measure,
    pictures={"ackley": values_by_step, "ackley_scales": values_by_scale, "ackley_jumps": step_lengths},
    columns=dict(zip(_COLUMNS, ("str", "float", "int", "int", "float", "float"), strict=True)),
)
