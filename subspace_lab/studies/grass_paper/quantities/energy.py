"""Fig. 1: how much of the gradient a core of rank r holds, over training and over depth, beside noise."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from subspace_lab._text import count
from subspace_lab.experiments.captured import ENERGY, energy_ratios
from subspace_lab.figures.axis import limits, step_axis
from subspace_lab.figures.labels import wrapped
from subspace_lab.figures.panels import FIXED, NOISE, grid, line_style
from subspace_lab.figures.style import Layout, picture
from subspace_lab.figures.tables import finite
from subspace_lab.studies.grass_paper.quantity import PaperStore, Quantity
from subspace_lab.studies.grass_paper.variants import adamw, every_seed

_COLUMNS = {
    "seed": "int", "step": "int", "kind": "str", "depth": "int", "rank": "int", "m": "int", "ratio": "float",
    "null_noise": "float", "null_isotropic": "float",
}  # fmt: skip


def measure(store: PaperStore) -> pd.DataFrame:
    """The `energy_ratios` of AdamW's captured runs."""
    table = store.read(ENERGY)
    return table if table.empty else energy_ratios(table[table["method"] == "adamw"])


_DASHES: tuple[Any, ...] = (NOISE["linestyle"], (0, (9, 2.5)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))


def _draw(table: pd.DataFrame, layout: Layout, *, x: str, xlabel: str) -> Figure:
    """Means by kind over seeds and over all but `x` (``step`` or ``depth``), with both nulls."""
    table = finite(table, "ratio", "No captured run is complete.")
    width = int(table["m"].median())
    panels = {rank: f"r = {rank}, r/m = 1/{width / rank:g}" for rank in sorted(set(table["rank"]))}
    kinds = list(dict.fromkeys(table["kind"]))
    styles = {kind: {**line_style(place), "markersize": 2.5} for place, kind in enumerate(kinds)}
    key = [Line2D([], [], label=kind, **style) for kind, style in styles.items()]
    own_null = {like: {**NOISE, "linestyle": dash} for like, dash in zip(_alike(table), cycle(_DASHES), strict=False)}
    names = [wrapped(f"noise, own basis: {', '.join(like)}", layout) for like in own_null]
    nulls = [Line2D([], [], label=name, **style) for name, style in zip(names, own_null.values(), strict=True)]
    nulls.append(Line2D([], [], label="noise, fixed basis: all", **FIXED))
    shape, ylabel = layout.at_most(3), f"‖SᵀG‖ / ‖G‖, mean of {count(table['seed'].nunique(), 'seed')}"
    figure, axes = grid(shape, list(panels.values()), xlabel="", height=1.7, ylabel=ylabel)
    for ax in list(axes.values())[-shape.columns :]:
        ax.set_xlabel(xlabel)
    figure.legend(
        handles=_in_columns(key, nulls, layout), loc="outside lower center", ncols=3 if layout.columns > 2 else 1
    )
    for rank, name in panels.items():
        rows, ax = table[table["rank"] == rank], axes[name]
        for kind, of_kind in rows.groupby("kind", sort=False):
            line = of_kind.groupby(x)["ratio"].mean()
            ax.plot(line.index, line, **styles[str(kind)], markevery=max(1, len(line) // 6))
        for like, style in own_null.items():
            ax.axhline(round(float(rows.loc[rows["kind"].isin(like), "null_noise"].mean()), 3), **style)
        ax.axhline(float(rows["null_isotropic"].mean()), **FIXED)
        step_axis(ax)
    next(iter(axes.values())).set_ylim(
        limits(table.groupby(["rank", "kind", x])["ratio"].mean(), table["null_isotropic"].min(), 1.0)
    )
    return figure


def _alike(table: pd.DataFrame) -> list[tuple[str, ...]]:
    """Kinds of layers that share their noise references, since their matrices have one shape."""
    means = table.pivot_table(index="kind", columns="rank", values="null_noise", sort=False).round(3)
    groups: dict[tuple[float, ...], list[str]] = {}
    for kind, values in means.iterrows():
        groups.setdefault(tuple(values), []).append(str(kind))
    return [tuple(kinds) for kinds in groups.values()]


def _in_columns(kinds: list[Line2D], nulls: list[Line2D], layout: Layout) -> list[Line2D]:
    """The entries of the legend, which fills columns: two of kinds and one of nulls where there is room."""
    if layout.columns <= 2:
        return [*kinds, *nulls]
    rows = max(-(-len(kinds) // 2), len(nulls))
    empty = Line2D([], [], linestyle="", label=" ")
    return [*kinds, *([empty] * (2 * rows - len(kinds))), *nulls, *([empty] * (rows - len(nulls)))]


@picture(
    "Energy in the core over training",
    "Energy ratio ‖SᵀG‖ / ‖G‖: the share of the gradient's norm in its own top-r left singular space, by kind of "
    "layer (mean over blocks and seeds), in trainings with AdamW. Dashed lines: the ratio of Gaussian noise in its "
    "own top-r space, one line per matrix shape. Dotted line: the ratio of isotropic noise in any fixed basis. A "
    "ratio above 0.5 is not evidence of structure: at r/m = 1/4 a fixed basis reaches it on noise. Energy above the "
    "lines is not necessarily signal, since the noise of real gradients is not isotropic.",
)
def over_training(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw the ratios over the steps, a panel per rank."""
    return _draw(table, layout, x="step", xlabel="optimizer step")


@picture(
    "Energy in the core over depth",
    "The same ratios by block, means over steps and seeds. A line that falls to the right means that in deeper layers "
    "a smaller share of the gradient lies in the core.",
)
def over_depth(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw the ratios over the blocks, a panel per rank."""
    return _draw(table, layout, x="depth", xlabel="block")


QUANTITY = Quantity(
    title="energy ratio",
    measure=measure,
    pictures={"fig1": over_training, "fig1_depth": over_depth},
    columns=_COLUMNS,
    variants=adamw,
    captured=every_seed,
)
