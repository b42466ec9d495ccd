"""Fig. 3: rule x transported moments (AO) x recovery scaling (RS), and a basis that is never refreshed as null."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from subspace_lab.experiments.statistics import best_rows
from subspace_lab.experiments.store import CURVES, RESULTS
from subspace_lab.figures.labels import wrapped
from subspace_lab.figures.panels import grid
from subspace_lab.figures.style import Layout, picture
from subspace_lab.figures.tables import finite
from subspace_lab.studies.grass_paper.profiles import Profile
from subspace_lab.studies.grass_paper.quantities.drawing import (
    note_handle,
    null_level,
    seed_handles,
    seed_points,
    seeds_of,
)
from subspace_lab.studies.grass_paper.quantity import PaperStore, Quantity
from subspace_lab.studies.grass_paper.variants import MOMENTS, RECOVERIES, Variants, part, part_name


def ablation_cells(profile: Profile) -> list[tuple[str, str, str]]:
    """Rule, moments and recovery of every combination of the ablation."""
    return [(rule, moments, recovery) for moments in MOMENTS for recovery in RECOVERIES for rule in profile.rules]


def ablation(profile: Profile) -> Variants:
    """Rule x AO x RS, RS with the limiter and without."""
    return {part_name(*parts): part(*parts) for parts in ablation_cells(profile)}


_SHARES = ["bulk_share", "recovery_share", "limiter", "limited_share"]


def measure(store: PaperStore) -> pd.DataFrame:
    """The losses of all parts at their best settings.

    Returns:
        One row per (rule, moments, recovery, seed): method, lr, edge, eval_loss, train_loss, and means over the logged
        steps of bulk_share, recovery_share, limiter (the factor that the limiter applied) and limited_share.
    """
    parts = [(part_name(*parts), *parts) for parts in ablation_cells(store.profile)]
    rows = best_rows(store.read(RESULTS), [name for name, *_ in parts])
    if rows.empty:
        return rows
    shares = store.read(CURVES).groupby("cell", as_index=False)[_SHARES].mean()
    columns = ["method", "cell", "lr", "edge", "seed", "eval_loss", "train_loss"]
    found = pd.DataFrame(parts, columns=["method", "rule", "moments", "recovery"]).merge(rows[columns], on="method")
    return found.merge(shares, on="cell", how="left").drop(columns="cell")


_NOTES = (
    "AO: at a refresh the moments are transported to the new basis (no AO: kept as they are)",
    "RS: what the basis leaves of the gradient is recovered, scaled; a limiter bounds its growth (unlimited: none)",
    "×0.87: the factor that the limiter applied to what was recovered, mean over steps and matrices",
)
_COLUMNS = {"none": "no RS", "limited": "RS", "free": "RS unlimited"}
_ROWS = {"keep": "no AO", "transport": "AO"}


@picture(
    "Rule, moments and recovery",
    "Held-out loss of every rule for the basis. Rows: moments are kept or transported (AO). Columns: without recovery "
    "scaling, with it (RS), and with it but without its limiter. Rules with AO and RS are tuned over all settings; the "
    "other cells take theirs over, with the rate of the matrices searched again. Points are seeds, bars their means. "
    "The dashed line is the mean of the basis that is never refreshed: a rule that does not lie below it gains nothing "
    "from updating the basis. The number under the points, in the panels with the limiter, is the factor that the "
    "limiter applied to the recovered part, mean over steps and matrices; where it differs, the rules are not compared "
    "under the same RS. Overlapping points do not prove that two rules are equal: differences are paired by seed, and "
    "the page lists them.",
)
def losses(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw a panel per moments and recovery, with the seeds of every rule in it."""
    table = finite(table, "eval_loss", "No training is complete.")
    panels = {
        (moments, recovery): f"{row}, {column}"
        for moments, row in _ROWS.items()
        for recovery, column in _COLUMNS.items()
    }
    rules = list(dict.fromkeys(table["rule"]))
    shape = layout.at_most(3)
    figure, axes = grid(shape, list(panels.values()), xlabel="", ylabel="held-out loss", height=2.35)
    low, high = table["eval_loss"].min(), table["eval_loss"].max()
    room = 0.08 * (high - low) or 0.05
    for (moments, recovery), name in panels.items():
        ax, rows = axes[name], table[(table["moments"] == moments) & (table["recovery"] == recovery)]
        ax.set_ylim(low - 2.2 * room, high + room)
        seed_points(ax, rows, rules, by="rule", y="eval_loss")
        if (rows["rule"] == "frozen").any():
            null_level(ax, float(rows.loc[rows["rule"] == "frozen", "eval_loss"].mean()))
        if recovery == "limited":  # the factors that the key explains
            for place, rule in enumerate(rules):
                factor = rows.loc[rows["rule"] == rule, "limiter"].mean()
                if factor == factor:
                    ax.text(place, low - 1.9 * room, f"×{factor:.2f}", ha="center", fontsize=layout.font_size - 2)
    for ax in list(axes.values())[-shape.columns :]:
        ax.set_xlabel(f"rule ({seeds_of(table)})")
    key = [
        *seed_handles("the rule that never moves the basis (frozen)"),
        *(note_handle(wrapped(note, layout)) for note in _NOTES),
    ]
    figure.legend(handles=key, loc="outside lower left")
    return figure


QUANTITY = Quantity(
    title="rule x AO x RS",
    measure=measure,
    pictures={"fig3": losses},
    columns={
        "method": "str", "rule": "str", "moments": "str", "recovery": "str", "lr": "float", "edge": "str",
        "seed": "int", "eval_loss": "float", "train_loss": "float", "bulk_share": "float", "recovery_share": "float",
        "limiter": "float", "limited_share": "float",
    },
    variants=ablation,
)  # fmt: skip
