"""The tasks by name, and what each of them takes where nothing else is said."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from subspace_lab._text import unknown


@dataclass(frozen=True)
class TaskDefaults:
    """Defaults of a task.

    Attributes:
        data: What it reads by default; None where data must be given.
        sequence_length: The most tokens of a row; None for the model's usual number.
        columns: What may be read from columns of the user's data, the needed ones and others; empty for plain text.
    """

    data: str | None = None
    sequence_length: int | None = None
    columns: tuple[str, ...] = ("prompt", "response", "messages")


DEFAULT_TASK = "language"
OWN_DATA = ("stdlib", "templates", "geonames", "gsm_symbolic")  # names of data that are no paths; ./stdlib is one
_LABELLED = ("text", "text2", "label")

TASKS: dict[str, TaskDefaults] = {
    "language": TaskDefaults("stdlib", columns=()),
    "sentiment": TaskDefaults("templates", 128, ("text", "label")),
    "questions": TaskDefaults("stdlib", 128),
    "arithmetic": TaskDefaults("templates", 256),
    "instructions": TaskDefaults("stdlib", 256, ("prompt", "input", "response", "messages")),
    "classification": TaskDefaults(None, 256, _LABELLED),
    "file": TaskDefaults(None, 256),
}


def columns_of(columns: Any) -> dict[str, str]:
    """Columns as a mapping.

    Args:
        columns: A mapping of roles to columns, or ``prompt=q,response=a``.

    Returns:
        Role to column.

    Raises:
        ValueError: If it is neither, or a role stands in it twice.

    >>> columns_of("prompt=q, response=a")
    {'prompt': 'q', 'response': 'a'}
    """
    example = "write 'prompt=q,response=a' or {'prompt': 'q', 'response': 'a'} for example"
    if isinstance(columns, str):
        pairs = [pair.partition("=") for pair in columns.split(",")]
        if not all(name.strip() and equals and column.strip() for name, equals, column in pairs):
            raise ValueError(f"columns={columns!r} is not a list of pairs; {example}")
        names = [name.strip() for name, _, _ in pairs]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"columns={columns!r} says {twice[0]} twice; leave one out")
        return {name.strip(): column.strip() for name, _, column in pairs}
    if not (isinstance(columns, Mapping) and all(isinstance(x, str) and x for pair in columns.items() for x in pair)):
        raise ValueError(f"columns must be names of columns, got {columns!r}; {example}")
    return dict(columns)


def check_task(task: Any, columns: Collection[str] | None) -> None:
    """Refuse a task that does not exist, and columns that it does not read.

    Args:
        task: As it was given.
        columns: The roles for which columns are given.

    Raises:
        ValueError: If there is no such task, or it has no such role.
    """
    if not isinstance(task, str) or task not in TASKS:
        raise ValueError(unknown("task", str(task), TASKS))
    known = TASKS[task].columns
    if columns and not known:
        raise ValueError(f"columns has no effect on task={task!r}, which reads plain text; leave it out")
    for name in columns or ():
        if name not in known:
            raise ValueError(unknown(f"column of task {task!r}", name, known))
