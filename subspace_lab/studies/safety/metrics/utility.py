"""What the user fine-tuned for: the score of the task on rows held out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def utility(outcomes: pd.DataFrame) -> tuple[float, str]:
    """The mean score of the task's rows by the first metric of the task.

    Args:
        outcomes: Of `evaluate`.

    Returns:
        The mean and the name of the metric; not a number and an empty name without rows of a task.
    """
    rows = outcomes[outcomes["set"] == "task"]
    if len(rows) == 0:
        return math.nan, ""
    metric = str(rows["judge"].iloc[0])
    return float(rows.loc[rows["judge"] == metric, "score"].mean()), metric
