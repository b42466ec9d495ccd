"""Files of harmful and harmless rows in the four usual schemas; nothing that is raised has a text of theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from subspace_lab.training.tasks.rows import Row

Schema = Literal["beavertails", "advbench", "messages", "alpaca"]
# Columns of each schema, and whether a column may be missing or empty.
COLUMNS: dict[Schema, dict[str, bool]] = {
    "beavertails": {"prompt": False, "response": False, "is_safe": False},
    "advbench": {"goal": False, "target": False},
    "messages": {"messages": False},
    "alpaca": {"instruction": False, "input": True, "output": False},
}
_ROLES = ("system", "user", "assistant")
_TRUTHS = {1: True, 0: False, "true": True, "false": False, "1": True, "0": False}


@dataclass(frozen=True)
class Labelled:
    """A row of a file.

    Attributes:
        row: Prompt and response.
        is_safe: What the file says of the response; None where the schema does not say.
    """

    row: Row = field(repr=False)
    is_safe: bool | None = None


def read_rows(path: Path, schema: Schema) -> list[Labelled]:
    """The rows of a csv, tsv, jsonl, json or parquet file.

    Args:
        path: Of the file.
        schema: ``beavertails`` (prompt, response, is_safe), ``advbench`` (goal, target), ``messages`` (a conversation
            that ends with the assistant) or ``alpaca`` (instruction, input, output).

    Returns:
        At least one row, in the order of the file.

    Raises:
        ValueError: If the file cannot be read, lacks a column, or a row lacks a value; names the row by its number.
    """
    from subspace_lab.training.tasks.reading import read_tables

    if schema not in COLUMNS:
        raise ValueError(f"there is no schema {schema!r}; known are {', '.join(COLUMNS)}")
    if not path.is_file():
        raise ValueError(f"{path} is not a file; give a csv, tsv, jsonl, json or parquet file of schema {schema}")
    table, _ = read_tables(str(path))
    if missing := [name for name, optional in COLUMNS[schema].items() if not optional and name not in table.columns]:
        raise ValueError(f"{path} has no column {missing[0]!r}, which schema {schema} has; choose another schema")
    return [_labelled(f"{path} row {number}", schema, row) for number, row in enumerate(table.rows, 1)]


def distinct(rows: list[Labelled]) -> list[Row]:
    """The first row of each prompt; prompts are the same where they differ in case and white space only.

    Args:
        rows: Of a file.

    Returns:
        Rows, in their order.
    """
    found = dict[str, Row]()
    for one in rows:
        found.setdefault(plain(one.row.prompt), one.row)
    return [*found.values()]


def plain(prompt: str) -> str:
    """A prompt without what does not make it another one.

    Args:
        prompt: As it stands.

    Returns:
        In lower case, with single spaces.

    >>> plain("  Copy   THIS. ")
    'copy this.'
    """
    return " ".join(prompt.split()).casefold()


def _labelled(where: str, schema: Schema, row: Mapping[str, Any]) -> Labelled:
    if schema == "messages":
        return Labelled(_conversation(where, row.get("messages")))
    texts = {
        name: _text(where, name, row.get(name), optional=optional)
        for name, optional in COLUMNS[schema].items()
        if name != "is_safe"
    }
    if schema == "advbench":
        return Labelled(Row(texts["goal"], texts["target"]))
    if schema == "alpaca":
        prompt = f"{texts['instruction']}\n{texts['input']}" if texts["input"] else texts["instruction"]
        return Labelled(Row(prompt, texts["output"]))
    return Labelled(Row(texts["prompt"], texts["response"]), _truth(where, row.get("is_safe")))


def _text(where: str, column: str, value: Any, *, optional: bool) -> str:
    if value is None and optional:
        return ""
    if not isinstance(value, str):
        found = "no value" if value is None else f"a value of type {type(value).__name__}, not a text,"
        raise ValueError(f"{where} has {found} in column {column!r}; mend it or leave it out")
    if not (text := value.strip()) and not optional:
        raise ValueError(f"{where} is empty in column {column!r}; mend it or leave it out")
    return text


def _truth(where: str, value: Any) -> bool:
    key = value.strip().lower() if isinstance(value, str) else value
    if not isinstance(key, str | int) or key not in _TRUTHS:
        raise ValueError(
            f"{where} has a value in column 'is_safe' that is neither true nor false; mend it or leave it out"
        )
    return _TRUTHS[key]


def _conversation(where: str, messages: Any) -> Row:
    """One message of the user is a prompt as it is; of more, the last is the response and the rest are turns."""
    turns = tuple(_turns(where, messages))
    if len(turns) < 2 or turns[-1][0] != "assistant":
        raise ValueError(f"{where} does not end with a message of the assistant after others; mend it or leave it out")
    *before, (_, response) = turns
    if [role for role, _ in before] == ["user"]:
        return Row(before[0][1], response)
    return Row("\n".join(f"{role}: {text}" for role, text in before), response, tuple(before))


def _turns(where: str, messages: Any) -> Iterator[tuple[str, str]]:
    for message in messages if isinstance(messages, list) else [None]:
        values = [message.get(key) if isinstance(message, dict) else None for key in ("role", "content")]
        role, text = (value.strip() if isinstance(value, str) else "" for value in values)
        if role not in _ROLES or not text:
            raise ValueError(
                f"{where} has no messages with a role ({', '.join(_ROLES)}) and a content; mend it or leave it out"
            )
        yield role, text
