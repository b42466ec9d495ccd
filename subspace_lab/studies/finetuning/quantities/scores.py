"""Score, held-out loss, time, state and memory of every method on every task."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from subspace_lab.analysis.significance import interval
from subspace_lab.experiments.statistics import best_rows, summary
from subspace_lab.experiments.store import RESULTS
from subspace_lab.experiments.study import Quantity
from subspace_lab.figures.style import COLOURS, Layout, picture
from subspace_lab.figures.tables import AbsentError
from subspace_lab.studies.finetuning.out_dir import FinetuningStore
from subspace_lab.studies.finetuning.profiles import SCORES

_MEANS = ("wall_s", "step_s", "refresh_share", "state_bytes", "peak_bytes", "base_bytes")
COLUMNS = {
    "task": "str", "method": "str", "lr": "float", "edge": "str", "seeds": "int", "failed": "int", "score": "float",
    "score_low": "float", "score_high": "float", "eval_loss": "float", "eval_low": "float", "eval_high": "float",
    "gap": "float", "gap_low": "float", "gap_high": "float", **dict.fromkeys(_MEANS, "float"),
}  # fmt: skip


def trained(store: FinetuningStore, task: str) -> pd.DataFrame:
    """The rows of a task's trainings, without captured runs."""
    rows = store.read(RESULTS)
    return rows[(rows["task"] == task) & (rows["source"] == "")] if len(rows) else rows


def measure(store: FinetuningStore) -> pd.DataFrame:
    """Each method on each task at its best rate.

    Returns:
        One row per (task, method), of each task the lowest held-out loss first: lr, edge (whether the rate is the
        lowest or highest that was tried), seeds, failed, score (the share of replies that are right) and eval_loss with
        Student's intervals, gap (of the loss to the first method, paired by seed, its interval adjusted by Holm), and
        means of time, state and peak memory.
    """
    found = []
    for task in store.profile.tasks:
        rows = trained(store, task)
        if rows.empty or not (table := summary(rows))["seeds"].any():
            continue
        scores = dict(iter(best_rows(rows).groupby("method")[SCORES[task].name]))
        ends = [interval(scores[name].dropna()) if name in scores else (np.nan, np.nan) for name in table["method"]]
        table = table.assign(
            task=task, score=[scores[name].mean() if name in scores else np.nan for name in table["method"]],
            score_low=[low for low, _ in ends], score_high=[high for _, high in ends],
        )  # fmt: skip
        found.append(table[list(COLUMNS)].astype(dict.fromkeys(_MEANS, "float64")))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


_PANELS = {  # label, unit
    "score": ("right replies, mean and\n95 % interval", 1.0),
    "eval_loss": ("held-out loss, mean and\n95 % interval (nats)", 1.0),
    "wall_s": ("time of a training (s)", 1.0),
    "state_bytes": ("optimizer state (MB)", 1e6),
}
_ENDS = {"score": ("score_low", "score_high"), "eval_loss": ("eval_low", "eval_high")}


@picture(
    "Fine-tuning: every method",
    "Each method at its best rate, which was chosen on a seed of its own: the share of held-out rows that are answered "
    "exactly right, the held-out loss, the time of a training without evaluations, and the bytes of the optimizer's "
    "tensors; means over seeds with Student's 95 % interval. The statements compare methods seed by seed, more "
    "precisely than these intervals. The embeddings, tied to the head, are trained by full-rank AdamW in all methods "
    "but "
    "LoRA, and are most of the state of a low-rank method. Times include that of the model, and what else the machine "
    "ran.",
)
def every_method(table: pd.DataFrame, layout: Layout) -> Figure:
    """Draw a row per method and task, its numbers side by side."""
    table = table.dropna(subset=["eval_loss"])
    if table.empty:
        raise AbsentError("No training is complete.")
    tasks = list(dict.fromkeys(table["task"]))
    most = int(table["task"].value_counts().max())
    columns = 2 if layout.columns <= 2 else len(_PANELS)
    lines = len(_PANELS) // columns
    figure = Figure(figsize=(layout.width, len(tasks) * lines * (0.75 + 0.2 * most)), layout="constrained")
    axes = figure.subplots(len(tasks) * lines, columns, squeeze=False)
    for place, task in enumerate(tasks):
        rows = table[table["task"] == task].iloc[::-1].reset_index(drop=True)
        names = [f"{row['method']} ({row['seeds']})" for row in rows.to_dict("records")]
        for number, (ax, (column, (label, unit))) in enumerate(
            zip(axes[place * lines : (place + 1) * lines].flat, _PANELS.items(), strict=True)
        ):
            values, colour = rows[column].astype("float64") / unit, COLOURS[number]
            if column in _ENDS:
                low, high = (rows[end] for end in _ENDS[column])
                half = ((high - low) / 2).fillna(0)
                ax.errorbar(values, rows.index, xerr=half, fmt="o", color=colour, elinewidth=1)
            else:
                ax.barh(rows.index, values, color=colour, height=0.6)
            if column == "score":
                ax.set_xlim(-0.03, 1.03)
            ax.set_xlabel(label)
            ax.set_yticks(rows.index, names if number % columns == 0 else [""] * len(rows))
            ax.grid(axis="y", visible=False)
        axes[place * lines, 0].set_title(f"{task}: method (seeds)", loc="left")
    return figure


QUANTITY = Quantity(
    title="every method", measure=measure, columns=COLUMNS, pictures={"finetuning": every_method},
)  # fmt: skip
