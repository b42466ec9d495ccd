"""Rows of labelled tasks, and how they are split into those to train on and those held out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

_HELD_OUT = 10  # one prompt in so many


@dataclass(frozen=True)
class Row:
    """A prompt and the response to learn.

    Attributes:
        prompt: What is asked.
        response: What is to be answered; at least a character.
        turns: Role and text of the messages that the prompt is made of; empty where it is one message of the user.
        texts: Of a classification, the texts that are classified.
        label: Of a classification, the number of the class, or the number to predict.
        formats: Of an instruction, the names of the formats that a reply must obey, with their argument.
    """

    prompt: str
    response: str
    turns: tuple[tuple[str, str], ...] = ()
    texts: tuple[str, ...] = ()
    label: float = 0.0
    formats: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Split:
    """Rows to train on and rows held out, which share no prompt.

    Attributes:
        train: At least one.
        held_out: At least one.
        origin: Where they are from, for messages.
    """

    train: Sequence[Row]
    held_out: Sequence[Row]
    origin: str = field(default="the rows", compare=False)


def split_by_prompt(rows: Sequence[Row], origin: str) -> Split:
    """Hold out a tenth of the prompts, with all of their rows; which ones is a function of the prompts alone.

    Args:
        rows: In any order.
        origin: Where they are from, for messages.

    Returns:
        Both parts, in the order of the rows.

    Raises:
        ValueError: If there are no two different prompts.
    """
    prompts = sorted({row.prompt for row in rows}, key=lambda prompt: hashlib.sha256(prompt.encode()).digest())
    if len(prompts) < 2:
        found = "no row" if not prompts else f"{len(rows)} row(s) of one prompt"
        raise ValueError(f"{origin} has {found}, nothing can be held out; give rows of at least two prompts")
    chosen = {*prompts[: max(1, len(prompts) // _HELD_OUT)]}
    return Split([x for x in rows if x.prompt not in chosen], [x for x in rows if x.prompt in chosen], origin)


def split_as_given(train: Sequence[Row], held_out: Sequence[Row], origin: str) -> Split:
    """Rows that were given in two parts.

    Args:
        train: To train on.
        held_out: To evaluate on.
        origin: Where they are from, for messages.

    Returns:
        Both parts.

    Raises:
        ValueError: If a part is empty, or a prompt is in both.
    """
    for rows, what in ((train, "training"), (held_out, "evaluation")):
        if not rows:
            raise ValueError(f"{origin} has no row in its {what} part; give at least one")
    known = {row.prompt for row in train}
    if shared := [row.prompt for row in held_out if row.prompt in known]:
        raise ValueError(
            f"{origin}: {len(shared)} prompt(s) stand in the training and in the evaluation part, {_short(shared[0])} "
            "for example; remove them from one, or give one file, which is split by prompt"
        )
    return Split(train, held_out, origin)


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
