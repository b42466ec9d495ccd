"""GrassWalk's sensitivity to rank, refresh interval, walk step, limiter and scale."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from subspace_lab.experiments.statistics import best_rows
from subspace_lab.experiments.store import RESULTS
from subspace_lab.figures.style import Layout, picture
from subspace_lab.figures.tables import finite
from subspace_lab.studies.grass_paper.profiles import Profile
from subspace_lab.studies.grass_paper.quantities.drawing import null_level, seed_handles, seed_points, seeds_of
from subspace_lab.studies.grass_paper.quantity import PaperStore, Quantity
from subspace_lab.studies.grass_paper.variants import Variants, part, part_name


def _usual(profile: Profile) -> dict[str, float]:
    interval = profile.base.update_interval or 200
    return {"rank": profile.rank, "update_interval": interval, "walk_step": 0.1, "zeta": 1.01, "scale": 1.0}


def sensitivity_of(profile: Profile) -> dict[str, tuple[str, Any]]:
    """Setting and value by the name of the variant of GrassWalk, without the usual values."""
    usual = _usual(profile)
    grids = {
        "rank": profile.ranks, "update_interval": profile.intervals, "walk_step": profile.walk_steps,
        "zeta": profile.zetas, "scale": profile.scales,
    }  # fmt: skip
    varied = {
        f"grasswalk {setting}={value:g}": (setting, value)
        for setting, values in grids.items()
        for value in values
        if value != usual[setting]
    }
    return varied | {part_name("walk", "transport", "free"): ("zeta", None)}


def sensitivity(profile: Profile) -> Variants:
    """GrassWalk with one setting changed."""
    changed: Variants = {
        name: {"optimizer": "grasswalk", setting: value} if value is not None else part("walk", "transport", "free")
        for name, (setting, value) in sensitivity_of(profile).items()
    }
    return {"grasswalk": {"optimizer": "grasswalk"}, **changed}


def measure(store: PaperStore) -> pd.DataFrame:
    """Losses, each with one setting changed and the rate of the matrices searched again.

    Returns:
        One row per (setting, value, seed): usual (whether it is GrassWalk's default here), lr, edge, eval_loss; zeta's
        value is NaN without a limiter. Every setting has rows of the usual value.
    """
    rows = best_rows(store.read(RESULTS))
    if rows.empty:
        return rows
    varied = [(name, setting, value, False) for name, (setting, value) in sensitivity_of(store.profile).items()]
    varied += [("grasswalk", setting, value, True) for setting, value in _usual(store.profile).items()]
    parts = pd.DataFrame(varied, columns=["method", "setting", "value", "usual"]).astype({"value": "float64"})
    found = parts.merge(rows[["method", "lr", "edge", "seed", "eval_loss"]], on="method")
    return found.sort_values(["setting", "value", "seed"], ignore_index=True)


_LABELS = {
    "rank": "rank r",
    "update_interval": "interval T (steps)",
    "walk_step": "walk step (rad)",
    "zeta": "limiter ζ",
    "scale": "scale of the matrices' step",
}


@picture(
    "Sensitivity of GrassWalk",
    "Held-out loss of GrassWalk with one setting changed and the rate of the matrices searched again. Points are "
    "seeds, bars their means; the dashed line is the mean at the usual settings. A higher rank needs more state, a "
    "shorter interval more time. The scale multiplies the step of the matrices; their rate is searched again at each "
    "scale, so that it should make no difference.",
)
def losses(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw the seeds of every value, a panel per setting."""
    table = finite(table, "eval_loss", "No training is complete.")
    table = table.assign(shown=[("none" if v != v else f"{v:g}") for v in table["value"]])
    columns = 2 if layout.columns > 2 else 1
    rows_of_panels = -(-len(_LABELS) // columns)
    figure = Figure(figsize=(layout.width, 0.6 + 1.9 * rows_of_panels), layout="constrained")
    axes = figure.subplots(rows_of_panels, columns, sharey=True, squeeze=False)
    for ax in axes.flat[len(_LABELS) :]:
        ax.remove()
    for ax, (setting, label) in zip(axes.flat, _LABELS.items(), strict=False):
        rows = table[table["setting"] == setting]
        names = list(dict.fromkeys(rows.sort_values("value", na_position="last")["shown"]))
        seed_points(ax, rows, names, by="shown", y="eval_loss")
        if rows["usual"].any():
            null_level(ax, float(rows.loc[rows["usual"], "eval_loss"].mean()))
        ax.set_xlabel(label)
    figure.legend(
        handles=seed_handles("the usual settings, the same in all panels"),
        loc="outside lower left",
        ncols=3 if layout.columns > 2 else 1,
    )
    figure.supylabel(f"held-out loss ({seeds_of(table)})")
    return figure


QUANTITY = Quantity(
    title="r, T, walk step, zeta, scale",
    measure=measure,
    pictures={"sensitivity": losses},
    columns={
        "method": "str", "setting": "str", "value": "float", "usual": "bool", "lr": "float", "edge": "str",
        "seed": "int", "eval_loss": "float",
    },
    variants=sensitivity,
)  # fmt: skip
