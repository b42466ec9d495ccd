"""Prompts and responses from the user's data: two columns, or messages of a conversation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from subspace_lab.training.tasks.columns import Names, find_columns, texts_of
from subspace_lab.training.tasks.reading import Table, read_tables
from subspace_lab.training.tasks.rows import Row, Split, split_as_given, split_by_prompt

_ROLES = ("system", "user", "assistant")
PROMPT: Names = {"prompt": ("prompt", "question"), "response": ("response", "answer")}


def split_of(data: str, rows_of: Callable[[Table], Sequence[Row]]) -> Split:
    """The user's rows, split as they are given, or by prompt.

    Args:
        data: A ``data`` setting.
        rows_of: Makes rows of a table.

    Returns:
        Rows to train on and rows held out.

    Raises:
        ValueError: If the data cannot be read or split.
    """
    train, held_out = read_tables(data)
    rows = rows_of(train)
    if held_out is None:
        return split_by_prompt(rows, train.where)
    return split_as_given(rows, rows_of(held_out), f"data={data!r}")


def pairs(table: Table, asked: Mapping[str, str], names: Names = PROMPT) -> list[Row]:
    """Rows of two columns, or of a column of messages where there is one and the two columns are not.

    Args:
        table: Rows as they stand.
        asked: Role to column, as the user says.
        names: The usual names of the columns of prompt and response.

    Returns:
        Rows.

    Raises:
        ValueError: If a column is missing, or a row does not have what it should.
    """
    column = asked.get("messages", "messages")
    has_pair = not {"prompt", "response"}.isdisjoint(asked) or any(name in table.columns for name in names["prompt"])
    if "messages" in asked or (column in table.columns and not has_pair):
        find_columns(table, asked, {"messages": [column]})
        return [_conversation(table, number, row.get(column)) for number, row in enumerate(table.rows, 1)]
    found = find_columns(table, asked, names)
    prompts, responses = (texts_of(table, found[role]) for role in ("prompt", "response"))
    return [Row(*pair) for pair in zip(prompts, responses, strict=True)]


def _conversation(table: Table, number: int, messages: Any) -> Row:
    """The last message is the response, those before it the prompt."""
    where = f"{table.where} row {number}"
    if not (isinstance(messages, list) and len(messages) > 1 and all(map(_is_message, messages))):
        raise ValueError(f"{where} has no messages; write a list of two or more objects with 'role' and 'content'")
    turns = tuple((message["role"], message["content"].strip()) for message in messages)
    for role, _ in turns:
        if role not in _ROLES:
            raise ValueError(f"{where} has a message of role {role!r}; known are {', '.join(_ROLES)}")
    role, response = turns[-1]
    if role != "assistant" or not response:
        raise ValueError(f"{where} does not end with a message of the assistant that has content; leave it out")
    return Row("\n".join(f"{role}: {text}" for role, text in turns[:-1]), response, turns[:-1])


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("role", "content"))
