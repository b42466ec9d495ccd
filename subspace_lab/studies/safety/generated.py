"""Rows that are generated here, as many different ones as a task has."""

from __future__ import annotations

import random
from collections.abc import Callable

from subspace_lab.training.tasks.rows import Row, Split, split_by_prompt

COUNT = 4000


def generated(make: Callable[[random.Random], Row], name: str) -> Split:
    """Different prompts, the same ones every time, a tenth of them held out.

    Args:
        make: Draws a row; there are at least 4,000 prompts that it can draw.
        name: Of the task, for messages.

    Returns:
        Rows to train on and rows held out.
    """
    draw, found = random.Random(0), dict[str, Row]()
    while len(found) < COUNT:
        row = make(draw)
        found.setdefault(row.prompt, row)
    return split_by_prompt([*found.values()], f"the task {name!r}")
