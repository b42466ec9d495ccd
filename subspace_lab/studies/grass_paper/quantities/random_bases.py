"""Random bases of four kinds: walks, walks with occasional jumps, jumps (QR of a Gaussian), random coordinates."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from subspace_lab.experiments.statistics import best_rows
from subspace_lab.experiments.store import RESULTS
from subspace_lab.figures.panels import grid
from subspace_lab.figures.style import Layout, picture
from subspace_lab.figures.tables import finite
from subspace_lab.studies.grass_paper.profiles import Profile
from subspace_lab.studies.grass_paper.quantities.drawing import seed_points, seeds_of
from subspace_lab.studies.grass_paper.quantity import PaperStore, Quantity
from subspace_lab.studies.grass_paper.variants import Variants, part, part_name

RANDOM_RULES = ("walk", "hybrid", "jump", "coordinates")
_PANELS = {"limited": "with the limiter", "free": "without it"}


def random_bases(profile: Profile) -> Variants:  # noqa: ARG001
    """Random bases of four kinds, with transport, with the limiter and without."""
    return {
        part_name(rule, "transport", recovery): part(rule, "transport", recovery)
        for recovery in _PANELS
        for rule in RANDOM_RULES
    }


def measure(store: PaperStore) -> pd.DataFrame:
    """Losses and refresh times, all with projection-aware moments and recovery scaling.

    Returns:
        One row per (rule, recovery, seed): method, lr, edge, eval_loss, refresh_share.
    """
    rows = best_rows(store.read(RESULTS))
    if rows.empty:
        return rows
    parts = [(part_name(rule, "transport", free), rule, free) for free in _PANELS for rule in RANDOM_RULES]
    columns = ["method", "lr", "edge", "seed", "eval_loss", "refresh_share"]
    return pd.DataFrame(parts, columns=["method", "rule", "recovery"]).merge(rows[columns], on="method")


@picture(
    "Random bases of four kinds",
    "Held-out loss with four kinds of random bases: a walk, a walk with a jump at every fifth refresh (hybrid), a "
    "jump at every refresh (QR of a Gaussian matrix), and random coordinates, which need no QR. Moments are "
    "transported, and the part outside of the core is recovered. Points are seeds, bars their means. Walks and "
    "jumps with the limiter are tuned over all settings; the others take the setting of walks or jumps over, with the "
    "rate of the matrices searched again.",
)
def losses(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw the seeds of every rule, a panel with the limiter and one without."""
    table = finite(table, "eval_loss", "No training is complete.")
    rules = list(dict.fromkeys(table["rule"]))
    shown = {name: label for name, label in _PANELS.items() if (table["recovery"] == name).any()}
    shape, rule = layout.at_most(layout.columns // 2), f"rule ({seeds_of(table)})"
    figure, axes = grid(shape, list(shown.values()), xlabel=rule, ylabel="held-out loss", height=2.2)
    for name, label in shown.items():
        seed_points(axes[label], table[table["recovery"] == name], rules, by="rule", y="eval_loss")
    return figure


QUANTITY = Quantity(
    title="hybrid, random coordinates",
    measure=measure,
    pictures={"random_bases": losses},
    columns={
        "method": "str", "rule": "str", "recovery": "str", "lr": "float", "edge": "str", "seed": "int",
        "eval_loss": "float", "refresh_share": "float",
    },
    variants=random_bases,
)  # fmt: skip
