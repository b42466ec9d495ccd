"""Energy in the core and the derivative of the subspace error over depth, pretrained and from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from subspace_lab.analysis.trends import change_over_training
from subspace_lab.experiments.captured import (
    ENERGY,
    ENERGY_COLUMNS,
    TANGENT,
    TANGENT_COLUMNS,
    energy_ratios,
    energy_table,
    tangent_table,
)
from subspace_lab.experiments.study import Quantity
from subspace_lab.figures.panels import FIXED, NOISE, grid, line_style
from subspace_lab.figures.style import Layout, picture
from subspace_lab.figures.tables import AbsentError
from subspace_lab.runs import Run
from subspace_lab.studies.finetuning.out_dir import FinetuningStore
from subspace_lab.studies.finetuning.trials import SOURCES

_CELL = {"cell": "str", "source": "str", "seed": "int"}
CAPTURED = {ENERGY: ENERGY_COLUMNS | _CELL, TANGENT: TANGENT_COLUMNS | _CELL}
COLUMNS = {
    "source": "str", "seed": "int", "depth": "int", "place": "float", "share": "float", "ratio": "float",
    "null_noise": "float", "null_isotropic": "float", "change": "float", "largest": "float", "largest_noise": "float",
}  # fmt: skip
_EVERY = ["seed", "depth"]


def absorb(store: FinetuningStore, rows: pd.DataFrame) -> None:
    """Measure those captured runs that have become complete, by the rows of their trials, and add the tables."""
    for row in rows[rows["source"] != ""].to_dict("records"):
        run = Run.open(store.trials_dir / row["cell"])
        about = {name: row[name] for name in _CELL}
        store.add(ENERGY, energy_table(run, about, shares=store.profile.shares))
        store.add(TANGENT, tangent_table(run, about))


def of_source(store: FinetuningStore, name: str, source: str) -> pd.DataFrame:
    """The rows of a captured table (`ENERGY` or `TANGENT`) of a source."""
    table = store.read(name, CAPTURED[name])
    return table[(table["source"] == source) & (table["depth"] >= 0)]


def measure(store: FinetuningStore) -> pd.DataFrame:
    """What is measured in each block, means over its layers and over the captured steps.

    Returns:
        One row per (source, seed, share, depth): place (0 in the first block, 1 in the last one); ratio and, as ratios,
        null_noise and null_isotropic at rank m / share of the median width; change (of the ratio, last third of the
        steps minus first third); largest (singular value of the subspace error's derivative over ||G||^2, at a quarter
        of the median width) and largest_noise.
    """
    found = []
    for source in SOURCES:
        energies = energy_ratios(of_source(store, ENERGY, source))
        if energies.empty:
            continue
        tangents = of_source(store, TANGENT, source)
        first = tangents[tangents["index"] == 0].groupby(_EVERY)[["normalized", "null_noise"]].mean()
        first = first.set_axis(["largest", "largest_noise"], axis=1)
        width = float(energies["m"].median())
        for rank in sorted(map(int, set(energies["rank"]))):
            rows = energies[energies["rank"] == rank]
            of_block = rows.groupby(_EVERY)[["ratio", "null_noise", "null_isotropic"]].mean()
            change = change_over_training(rows, by=(*_EVERY, "kind")).groupby(_EVERY).mean().rename("change")
            found.append(of_block.join(change).join(first).reset_index().assign(source=source, share=width / rank))
    if not found:
        return pd.DataFrame()
    table = pd.concat(found, ignore_index=True)
    deepest = table.groupby("source")["depth"].transform("max").clip(lower=1)
    return table.assign(place=table["depth"] / deepest)[list(COLUMNS)]


def _draw(
    table: pd.DataFrame, layout: Layout, panels: Sequence[tuple[str, pd.DataFrame, str, str]], ylabel: str
) -> Figure:
    """A line per source with the seeds as a band, and its null as a dashed line of the same colour.

    Args:
        table: From `measure`.
        layout: The size of the figure.
        panels: Title, rows, column of the values and of the null, which may be empty, of each panel.
        ylabel: Of all panels.

    Returns:
        The figure.

    Raises:
        AbsentError: If there are no rows.
    """
    if table.empty:
        raise AbsentError("No captured run is complete.")
    styles = {source: line_style(place) for place, source in enumerate(SOURCES) if source in set(table["source"])}
    key = [Line2D([], [], label=SOURCES[source], **style) for source, style in styles.items()]
    if panels[0][3]:
        key.append(Line2D([], [], label="Gaussian noise, in the colour of its source", **NOISE))
    figure, axes = grid(layout, [title for title, *_ in panels], xlabel="", ylabel=ylabel, height=2.2)
    figure.legend(handles=key, loc="outside lower center", ncols=2 if layout.columns > 2 else 1)
    for title, rows, column, null in panels:
        ax = axes[title]
        ax.set_xlabel("place of the block (0 first, 1 last)")
        for source, style in styles.items():
            _lines(ax, rows[rows["source"] == source], column, null, style)
        if not null:
            ax.axhline(0, **FIXED)
    return figure


def _lines(ax: Any, rows: pd.DataFrame, column: str, null: str, style: dict[str, Any]) -> None:
    spread = rows.groupby("place")[column].agg(["mean", "min", "max"])
    ax.fill_between(spread.index, spread["min"], spread["max"], color=style["color"], alpha=0.2, linewidth=0)
    ax.plot(spread.index, spread["mean"], **style, markersize=3, markevery=max(1, len(spread) // 8))
    if null:
        level = rows.groupby("place")[null].mean()
        ax.plot(level.index, level, **{**NOISE, "color": style["color"]})


def _by_share(table: pd.DataFrame, column: str, null: str) -> list[tuple[str, pd.DataFrame, str, str]]:
    shares = sorted(set(table["share"]))
    return [(f"r/m = 1/{share:g}", table[table["share"] == share], column, null) for share in shares]


_SOURCES_ARE = (
    "Three kinds of trainings with AdamW: a pretrained model on a task, the same on text, and a small model from "
    "scratch "
    "on text; means over the layers of a block, the captured steps and seeds, the band from the lowest to the highest "
    "seed. Blocks are placed by depth, since the models have different numbers of them."
)


@picture(
    "Energy in the core over depth, pretrained and from scratch",
    "Energy ratio ‖SᵀG‖ / ‖G‖ of the gradient in its own top-r space, by block. "
    + _SOURCES_ARE
    + " A line that falls to "
    "the right means that deeper blocks have less of their gradient in the core. Dashed: Gaussian noise in its own "
    "top-r "
    "space, of the shapes of that model; only what is above it is structure.",
)
def over_depth(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw the ratios over the blocks, a panel per share."""
    return _draw(table, layout, _by_share(table, "ratio", "null_noise"), "‖SᵀG‖ / ‖G‖")


@picture(
    "Change of the energy over training, pretrained and from scratch",
    "The energy ratio in the last third of the captured steps minus that in the first third, by block. "
    + _SOURCES_ARE
    + " Below zero the core loses energy over training.",
)
def changes(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw the change of the ratios over the blocks, a panel per share."""
    return _draw(table, layout, _by_share(table, "change", ""), "change of ‖SᵀG‖ / ‖G‖")


@picture(
    "Derivative of the subspace error over depth, pretrained and from scratch",
    "The largest singular value of −2 (I − SSᵀ) GGᵀS over ‖G‖², by block, S the basis of the capture before, at a "
    "quarter of the width. "
    + _SOURCES_ARE
    + " Dashed: its expected value for Gaussian noise and a random basis. Small "
    "values alone do not show that the landscape is flat.",
)
def derivative(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw the largest values over the blocks."""
    if len(table):  # the same at every share
        table = table[table["share"] == table.groupby("source")["share"].transform("min")]
    return _draw(table, layout, [("r/m = 1/4", table, "largest", "largest_noise")], "largest σ / ‖G‖²")


QUANTITY = Quantity(
    title="gradients over depth",
    measure=measure,
    columns=COLUMNS,
    pictures={"finetuning_depth": over_depth, "finetuning_changes": changes, "finetuning_derivative": derivative},
)
