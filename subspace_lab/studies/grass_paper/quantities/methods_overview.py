"""Tables 1 and 2: every method and AdamW, with losses, bytes by formula and as measured, and time."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from subspace_lab.experiments.present import latex_table
from subspace_lab.experiments.statistics import summary
from subspace_lab.experiments.store import RESULTS, TABLES
from subspace_lab.figures.style import COLOURS, Layout, picture
from subspace_lab.figures.tables import AbsentError
from subspace_lab.runs.files import publish
from subspace_lab.studies.grass_paper.profiles import Profile
from subspace_lab.studies.grass_paper.quantities.drawing import shown
from subspace_lab.studies.grass_paper.quantity import PaperStore, Quantity
from subspace_lab.studies.grass_paper.variants import Variants


def methods(profile: Profile) -> Variants:
    """Every method, AdamW included; of the larger size too where the profile has one."""
    small: Variants = {name: {"optimizer": name} for name in profile.methods}
    if not profile.larger:
        return small
    return small | {f"{name} {profile.larger['preset']}": _larger(name, profile.larger) for name in profile.methods}


def _larger(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    has_none = {"adamw": {"rank", "update_interval"}, "badam": {"rank"}}.get(name, set())
    return {"optimizer": name, **{key: value for key, value in settings.items() if key not in has_none}}


def measure(store: PaperStore) -> pd.DataFrame:
    """The `summary` of all methods, the lowest held-out loss first; it is also written as CSV and LaTeX."""
    rows = store.read(RESULTS)
    rows = rows[rows["method"].isin(methods(store.profile)) & ~rows["captured"]] if len(rows) else rows
    if rows.empty or not (rows["status"] == "complete").any():
        return pd.DataFrame()
    table = summary(rows)
    with publish(store.path / TABLES / "tables.csv") as aside:
        table.to_csv(aside, index=False)
    with publish(store.path / TABLES / "tables.tex") as aside:
        aside.write_text(latex_table(table), encoding="utf-8")
    return table


_PANELS = {
    "eval_loss": ("held-out loss, mean and 95 % interval", 1.0),
    "state_bytes": ("state (MB)", 1e6),
    "wall_s": ("time (s)", 1.0),
}


@picture(
    "Every method",
    "Held-out loss of every method at its best learning rate (mean over seeds with Student's 95 % interval), bytes of "
    "the optimizer's tensors, and training time. The table of methods also has train losses, peak memory, memory by "
    "formula, refresh shares, and the gaps paired by seed, which compare methods more precisely than these intervals. "
    "In all methods full-rank AdamW trains the embeddings, the head and the norms; in a model this small they account "
    "for most of the state.",
)
def every_method(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw a row per method, with its loss, its bytes and its time side by side."""
    table = table.dropna(subset=["eval_loss"]).iloc[::-1].reset_index(drop=True)
    if table.empty:
        raise AbsentError("No training is complete.")
    figure = Figure(figsize=(layout.width, 0.9 + 0.21 * len(table)), layout="constrained")
    axes = figure.subplots(1, len(_PANELS), sharey=True, width_ratios=[2, 1, 1])
    for ax, (column, (label, unit)), colour in zip(axes, _PANELS.items(), COLOURS, strict=False):
        values = table[column].astype("float64") / unit
        if column == "eval_loss":
            half = (table["eval_high"] - table["eval_loss"]).where(table["eval_high"].notna())
            ax.errorbar(values, table.index, xerr=half, fmt="o", color=colour, elinewidth=1)
        else:
            ax.barh(table.index, values, color=colour, height=0.6)
        ax.set_xlabel(label if layout.columns > 2 else label.replace(", ", "\n").replace("and ", "and\n"))
        ax.grid(axis="y", visible=False)
    names = [f"{shown(row['method'])} ({row['seeds']})" for row in table.to_dict("records")]
    axes[0].set_yticks(table.index, names)
    axes[0].set_ylabel("method (seeds)")
    return figure


_NUMBERS = (
    "lr", "lr_rest", "beta2", "warmup", "eval_loss", "eval_sd", "eval_low", "eval_high", "gap", "gap_low", "gap_high",
    "train_loss", "train_sd", "state_bytes", "state_bytes_formula", "peak_bytes", "base_bytes", "step_s",
    "refresh_share", "tokens", "wall_s",
)  # fmt: skip

QUANTITY = Quantity(
    title="Tables 1 and 2",
    measure=measure,
    figures={"tables": every_method},
    columns={
        "method": "str", "edge": "str", "lrs": "int", "failed": "int", "seeds": "int",
        **dict.fromkeys(_NUMBERS, "float"),
    },
    variants=methods,
)  # fmt: skip
