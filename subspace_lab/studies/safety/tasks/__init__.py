"""Tasks, one file each, in tokens for the synthetic policy and in English; a file registers its class."""

from __future__ import annotations

from subspace_lab.studies.safety.kinds import Form


def check_form(name: str, form: Form, data: str, default: str) -> None:
    """Refuse data where the rows are tokens, which are generated.

    Args:
        name: Of the task.
        form: Of its rows.
        data: As it was set.
        default: What it is otherwise.

    Raises:
        ValueError: If data were set for tokens.
    """
    if form == "digits" and data != default:
        raise ValueError(f"{name}:data={data} has no effect in a study whose rows are digits; leave it out, or choose "
                         "another policy")  # fmt: skip
