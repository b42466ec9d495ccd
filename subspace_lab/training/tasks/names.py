"""The tasks by name, and what each of them takes where nothing else is said."""

from __future__ import annotations

from dataclasses import dataclass


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
