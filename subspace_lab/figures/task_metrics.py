"""What the evaluations of a labelled task gave, over training."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from subspace_lab._checks import is_choice
from subspace_lab.figures.axis import step_axis
from subspace_lab.figures.panels import line_style
from subspace_lab.figures.style import Layout, styled_figure
from subspace_lab.figures.tables import AbsentError
from subspace_lab.runs import Run

TITLE = "Task metrics"
CAPTION = (
    "The metrics of the task on its held-out rows, the same rows every time, at every evaluation: shares from 0 to 1, "
    "and correlations from -1 to 1. An arrow says which direction is better. Held-out rows share no prompt with those "
    "trained on. One reply is one part in the number of rows: of 32 rows, 0.03."
)
_LOSS = "eval_loss"
_ARROWS = {"lower": "↓", "higher": "↑"}


@dataclass(frozen=True)
class TaskMetric:
    """A metric that a run's manifest names.

    Attributes:
        name: Its name in ``metrics.jsonl``.
        better: ``lower`` or ``higher``.
        unit: Of the number, empty for a share.
    """

    name: str
    better: str
    unit: str

    @property
    def label(self) -> str:
        """What it is called in pictures and tables."""
        return f"{self.name.removeprefix('eval_').replace('_', ' ')} {_ARROWS[self.better]}"


def metrics_of(run: Run) -> list[TaskMetric]:
    """The metrics that the manifest of a run of a labelled task names; none for other runs.

    Args:
        run: An opened run.

    Returns:
        The metrics, the loss first; those that a manifest describes otherwise are left out.
    """
    evaluation = run.manifest.get("evaluation")
    named = evaluation.get("metrics") if isinstance(evaluation, dict) else None
    return [
        TaskMetric(of["name"], of["better"], str(of.get("unit", "")))
        for of in (named if isinstance(named, list) else [])
        if isinstance(of, dict) and isinstance(of.get("name"), str) and is_choice(of.get("better"), _ARROWS)
    ]


def evaluations(run: Run, metrics: list[TaskMetric]) -> pd.DataFrame:
    """The steps at which a run was evaluated.

    Args:
        run: An opened run.
        metrics: From `metrics_of`, at least one.

    Returns:
        The columns ``step`` and the names of the metrics, float64.
    """
    names = [metric.name for metric in metrics]
    return run.curves(*names).dropna(subset=names, how="all").reset_index(drop=True)


@styled_figure(TITLE)
def draw(run: Run, layout: Layout) -> Figure:
    """Draw the figure; see CAPTION."""
    metrics = [metric for metric in metrics_of(run) if metric.name != _LOSS]
    table = evaluations(run, metrics) if metrics else pd.DataFrame()
    if table.empty:
        raise AbsentError("The run is not one of a labelled task that was evaluated.")
    figure = Figure(figsize=(layout.width, 2.6), layout="constrained")
    ax = figure.subplots()
    for place, metric in enumerate(metrics):
        rows = table[["step", metric.name]].dropna()
        ax.plot(rows["step"], rows[metric.name], label=metric.label, markersize=4, **line_style(place))
    ax.set(xlabel="optimizer step", ylabel="on held-out rows")
    step_axis(ax)
    ax.legend(loc="best")
    return figure
