"""What became of the task: the lines above its figure."""

from __future__ import annotations

from dataclasses import dataclass

from subspace_lab.figures.task_metrics import evaluations, metrics_of
from subspace_lab.runs import Run


@dataclass(frozen=True)
class TaskRow:
    """A metric over training.

    Attributes:
        name: With an arrow into the direction that is better.
        first: At the first evaluation.
        best: The best one, and at which step.
        last: At the last evaluation.
    """

    name: str
    first: str
    best: str
    last: str


def task_rows(run: Run) -> list[TaskRow]:
    """A row for each metric of a labelled task; none for other runs, and for those that were not evaluated.

    Args:
        run: An opened run.

    Returns:
        The rows, the loss first.
    """
    metrics = metrics_of(run)
    table = evaluations(run, metrics) if metrics else None
    if table is None or table.empty:
        return []
    rows = []
    for metric in metrics:
        values = table[["step", metric.name]].dropna()
        if values.empty:
            continue
        series = values[metric.name]
        place = int(series.argmin() if metric.better == "lower" else series.argmax())
        unit = f" {metric.unit}" if metric.unit else ""
        best = f"{series.iloc[place]:.3f}{unit} at step {int(values['step'].iloc[place])}"
        rows.append(TaskRow(metric.label, f"{series.iloc[0]:.3f}{unit}", best, f"{series.iloc[-1]:.3f}{unit}"))
    return rows
