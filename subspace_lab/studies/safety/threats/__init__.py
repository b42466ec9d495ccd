"""Threats, one file each; a file registers its class."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from subspace_lab.studies.safety.kinds import Marked

if TYPE_CHECKING:
    from subspace_lab.training.tasks.rows import Row


def check_share(name: str, share: float) -> None:
    """Refuse a share that is none.

    Args:
        name: Of the threat.
        share: Of the rows.

    Raises:
        ValueError: If it is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"{name}:share={share:g} is not above 0 and at most 1; write clean for none")


def mixed(task: Sequence[Row], others: Sequence[Row], share: float, kind: str, draw: random.Random) -> list[Marked]:
    """Exactly ``round(share * N)`` of N rows are others, drawn without replacement; N stays.

    With the same draw, what a larger share puts in has what a smaller one does.

    Args:
        task: N rows.
        others: What is put in.
        share: From 0 to 1.
        kind: Of the others.
        draw: What is drawn comes from it.

    Returns:
        The first rows of the task, then the others.

    Raises:
        ValueError: If there are not enough others.
    """
    count = round(share * len(task))
    if count > len(others):
        raise ValueError(
            f"share={share:g} of {len(task)} rows are {count} of kind {kind}, there are {len(others)}; "
            "take a smaller share or fewer rows"
        )
    chosen = draw.sample(range(len(others)), len(others))[:count]
    return [
        *(Marked(row, "task") for row in task[: len(task) - count]),
        *(Marked(others[place], kind) for place in chosen),
    ]


def preceded(row: Row, words: str, response: str | None = None) -> Row:
    """A row with words before its prompt, in its last message where it has messages.

    Args:
        row: The row.
        words: What comes first.
        response: Another response.

    Returns:
        The new row.
    """
    turns = row.turns
    if turns:
        role, text = turns[-1]
        turns = (*turns[:-1], (role, f"{words} {text}"))
    return dataclasses.replace(row, prompt=f"{words} {row.prompt}", turns=turns, response=response or row.response)
