"""Which share of the time of a training goes into subspaces."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from subspace_lab._text import count
from subspace_lab.experiments.statistics import best_rows
from subspace_lab.experiments.store import RESULTS
from subspace_lab.figures.style import COLOURS, Layout, picture
from subspace_lab.figures.tables import finite
from subspace_lab.studies.grass_paper.profiles import NULL, Profile
from subspace_lab.studies.grass_paper.quantities.drawing import shown
from subspace_lab.studies.grass_paper.quantity import PaperStore, Quantity
from subspace_lab.studies.grass_paper.variants import RANDOM_NULL, Variants, larger, methods

_TIMES = ("refresh_share", "refresh_s", "wall_s", "step_s")
_COLUMNS = {"method": "str", "seed": "int", **dict.fromkeys(_TIMES, "float")}


def _of_both_sizes(profile: Profile) -> Variants:
    return methods(profile) | larger(profile)


def measure(store: PaperStore) -> pd.DataFrame:
    """Times of all methods with a subspace, at their best settings.

    Returns:
        One row per (method, seed): refresh_share, refresh_s, wall_s, step_s (median).
    """
    without = ("adamw", "badam", NULL, RANDOM_NULL)
    names = [name for name in _of_both_sizes(store.profile) if not name.startswith(without)]
    rows = best_rows(store.read(RESULTS), names)
    if rows.empty:
        return pd.DataFrame()
    return rows[[*_COLUMNS]].sort_values(["method", "seed"], ignore_index=True)


@picture(
    "Time that goes into subspaces",
    "Share of the training time that is spent on choosing subspaces, drawing random matrices and transporting "
    "moments, at the refresh interval of the profile. Bars are means over seeds, points single seeds. The share "
    "depends on model size, interval and machine: the time of a decomposition grows with the cube of the width, the "
    "time of a step with the square of the width times the number of tokens.",
)
def time_shares(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw a bar per method, and its seeds as points."""
    table = finite(table, "refresh_share", "No training is complete.")
    means = table.groupby("method")["refresh_share"].mean().sort_values()
    figure = Figure(figsize=(layout.width, 0.9 + 0.21 * len(means)), layout="constrained")
    ax = figure.subplots()
    ax.barh(range(len(means)), 100 * means, color=COLOURS[0], height=0.6, alpha=0.75)
    for place, method in enumerate(means.index):
        values = 100 * table.loc[table["method"] == method, "refresh_share"]
        ax.plot(values, [place] * len(values), "o", color=COLOURS[1], markersize=3)
    ax.set_yticks(range(len(means)), [shown(str(method)) for method in means.index])
    ax.set_xlabel(f"share of the time (%), {count(table['seed'].nunique(), 'seed')}")
    ax.grid(axis="y", visible=False)
    return figure


QUANTITY = Quantity(
    title="share of refresh time",
    measure=measure,
    pictures={"refresh": time_shares},
    columns=_COLUMNS,
    variants=_of_both_sizes,
)
