"""``||L|| / ||G||`` over training by rule, with the limiter and without, and what lies in the bulk."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from subspace_lab.experiments.statistics import best_rows
from subspace_lab.experiments.store import CURVES, RESULTS
from subspace_lab.figures.axis import log_axis, step_axis
from subspace_lab.figures.panels import grid, line_style
from subspace_lab.figures.style import Layout, picture
from subspace_lab.figures.tables import finite
from subspace_lab.studies.grass_paper.quantities.ablation import ablation, ablation_cells
from subspace_lab.studies.grass_paper.quantity import PaperStore, Quantity
from subspace_lab.studies.grass_paper.variants import part_name


def measure(store: PaperStore) -> pd.DataFrame:
    """The shares over the steps, with projection-aware moments and at the best settings.

    Returns:
        One row per (rule, recovery, seed, step): bulk_share ||G - S A|| / ||G||, recovery_share ||L|| / ||G||, limiter.
    """
    parts = [(part_name(*parts), *parts) for parts in ablation_cells(store.profile) if parts[1] == "transport"]
    rows = best_rows(store.read(RESULTS), [name for name, *_ in parts])
    if rows.empty:
        return rows
    columns = ["cell", "seed", "step", "bulk_share", "recovery_share", "limiter"]
    curves = store.read(CURVES)[columns].dropna(subset=["bulk_share"])
    found = pd.DataFrame(parts, columns=["method", "rule", "moments", "recovery"]).merge(rows[["method", "cell"]])
    return found.merge(curves, on="cell").drop(columns=["cell", "method", "moments"])


_LINES = {"limited": ("recovered, with limiter: ‖L‖/‖G‖", "recovery_share"),
          "free": ("recovered, no limiter: ‖L‖/‖G‖", "recovery_share"),
          "none": ("lost without RS: ‖G − SSᵀG‖/‖G‖", "bulk_share")}  # fmt: skip


@picture(
    "What is recovered from outside of the core",
    "The norm of the recovered part L over training, as ‖L‖/‖G‖, with the limiter of recovery scaling (RS) and "
    "without it; and without RS the share ‖G − SSᵀG‖/‖G‖ of the gradient that is lost. One panel per rule of the "
    "basis S; moments are transported, norms are taken over all matrices, lines are means over seeds. L has the units "
    "of Adam's direction and G those of a gradient, so ‖L‖/‖G‖ is not a share: it lies far above 1 and grows as "
    "gradients get smaller. Compare rules and steps, not the level. The limiter bounds the growth of L per step: "
    "where the residual is small at the start, L stays small for a long time.",
)
def recovered_part(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw the shares over the steps, a panel per rule."""
    table = finite(table, "bulk_share", "No training is complete.")
    rules = list(dict.fromkeys(table["rule"]))
    styles = {recovery: {**line_style(place), "marker": ""} for place, recovery in enumerate(_LINES)}
    key = [Line2D([], [], label=label, **styles[recovery]) for recovery, (label, _) in _LINES.items()]
    ylabel = "norm over that of the gradient"
    figure, axes = grid(layout.at_most(3), rules, xlabel="optimizer step", ylabel=ylabel, key=key, height=1.7)
    shown = pd.concat([table.loc[table["recovery"] == name, column] for name, (_, column) in _LINES.items()])
    shown = shown[shown > 0]
    for rule in rules:
        ax = axes[rule]
        log_axis(ax, low=float(shown.min()), high=float(shown.max()))
        step_axis(ax)
        for recovery, (_, column) in _LINES.items():
            rows = table[(table["rule"] == rule) & (table["recovery"] == recovery)]
            line = rows.groupby("step")[column].mean()
            ax.plot(line.index, line.where(line > 0), **styles[recovery])
    return figure


QUANTITY = Quantity(
    title="size of L over training",
    measure=measure,
    pictures={"recovery": recovered_part},
    columns={
        "rule": "str", "recovery": "str", "seed": "int", "step": "float", "bulk_share": "float",
        "recovery_share": "float", "limiter": "float",
    },
    variants=ablation,
)  # fmt: skip
