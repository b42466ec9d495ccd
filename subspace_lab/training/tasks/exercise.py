"""What a labelled task is made of: its rows, how a reply is judged, and which metrics follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from subspace_lab.training.tasks.base import Metric
from subspace_lab.training.tasks.rows import Row, Split

EXACT, F1 = Metric("eval_exact", "higher", ""), Metric("eval_f1", "higher", "")
ACCURACY = Metric("eval_accuracy", "higher", "")
UNPARSED = Metric("eval_unparsed", "lower", "")


@dataclass(frozen=True)
class Head:
    """What a classification head gives.

    Attributes:
        labels: Names of the classes in the order of their numbers; none for a number.
    """

    labels: tuple[str, ...]

    @property
    def size(self) -> int:
        """Outputs of the head."""
        return len(self.labels) or 1


@dataclass(frozen=True)
class Exercise:
    """A labelled task before a model and a tokenizer are known.

    Attributes:
        split: Rows to train on and rows held out.
        metrics: What `combine` gives, beside the loss.
        judge: Of a row and a reply: one number for each of `judged`, NaN where it does not count.
        combine: Of rows and their judgements (rows, numbers): the metrics by name.
        judged: How many numbers `judge` gives.
        head: For models that classify and do not write; None where replies must be written.
    """

    split: Split
    metrics: tuple[Metric, ...]
    judge: Callable[[Row, str], Sequence[float]]
    combine: Callable[[Sequence[Row], np.ndarray], dict[str, float]]
    judged: int
    head: Head | None = None


def scored(split: Split, metrics: Sequence[Metric], judge: Callable[[Row, str], Sequence[float]]) -> Exercise:
    """An exercise whose metrics are means of the judgements.

    Args:
        split: Its rows.
        metrics: One for each number of a judgement.
        judge: Of a row and a reply: a number per metric, NaN where a row does not count for it.

    Returns:
        The exercise.
    """

    def combine(rows: Sequence[Row], judged: np.ndarray) -> dict[str, float]:
        assert len(rows) == len(judged)
        return {
            metric.name: float(values[np.isfinite(values)].mean())
            for metric, values in zip(metrics, judged.T, strict=True)
            if np.isfinite(values).any()
        }

    return Exercise(split, tuple(metrics), judge, combine, len(metrics))
