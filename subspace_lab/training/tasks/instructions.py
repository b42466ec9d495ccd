"""One-sentence descriptions of functions, some in a format that can be verified; or the user's instructions."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from subspace_lab.training.cache import cache_key, cached_text
from subspace_lab.training.sources import find_source, stdlib_modules
from subspace_lab.training.tasks.base import Metric
from subspace_lab.training.tasks.columns import Names, find_columns
from subspace_lab.training.tasks.exercise import F1, Exercise, scored
from subspace_lab.training.tasks.pairs import pairs, split_of
from subspace_lab.training.tasks.reading import Table
from subspace_lab.training.tasks.rows import Row, Split, split_by_prompt
from subspace_lab.training.tasks.scorers import token_f1

OBEYED = Metric("eval_obeyed", "higher", "")
_NAMES: Names = {"prompt": ("instruction", "prompt", "question"), "response": ("output", "response", "answer")}
_SENTENCE = re.compile(r"[A-Z][^\n]{10,150}?\.$")
_END = "That is all."


def instructions(data: str, columns: Mapping[str, str]) -> Exercise:
    """Instructions and responses.

    Args:
        data: ``stdlib`` (docstrings of one sentence of the public functions of Python's standard library, two thirds
            of them in a format: at most so many words, in capitals, or with a given end), or where rows with
            instruction, input (may be missing) and output are, or messages.
        columns: Role to column, where the names are others.

    Returns:
        The exercise; a reply is scored by `token_f1` and, where formats are asked for, by the share that it obeys.
    """
    split = _stdlib() if data == "stdlib" else split_of(data, lambda table: _rows(table, columns))

    def judge(row: Row, reply: str) -> tuple[float, ...]:
        kept = [obeys(reply, *form) for form in row.formats]
        return token_f1(reply, row.response), float(np.mean(kept)) if kept else float("nan")

    has_formats = any(row.formats for row in split.held_out)
    return scored(split, (F1, OBEYED), judge) if has_formats else scored(split, (F1,), lambda *of: judge(*of)[:1])


def obeys(reply: str, form: str, argument: str) -> bool:
    """Whether a reply has a format.

    Args:
        reply: What the model wrote; an empty one obeys nothing.
        form: ``words`` (at most so many), ``capitals`` or ``end``.
        argument: The number of words, or the end.

    Returns:
        Whether it has.

    >>> obeys("Return the path.", "words", "3"), obeys("RETURN 2.", "capitals", ""), obeys("", "capitals", "")
    (True, True, False)
    """
    text = reply.strip()
    if form == "words":
        return 0 < len(text.split()) <= int(argument)
    if form == "capitals":
        return text.isupper()
    return text.endswith(argument)


def _rows(table: Table, columns: Mapping[str, str]) -> list[Row]:
    rows = pairs(table, columns, _NAMES)
    column = find_columns(table, columns, {}, {"input": ("input",)}).get("input")
    if column is None or any(row.turns for row in rows):
        return rows
    more = [str(row.get(column) or "").strip() for row in table.rows]
    return [Row(f"{row.prompt}\n{text}" if text else row.prompt, row.response)
            for row, text in zip(rows, more, strict=True)]  # fmt: skip


def _stdlib() -> Split:
    key = cache_key("docstrings", find_source("stdlib").identity)
    text = cached_text(f"docstrings-{key}.json", lambda: json.dumps([*_docstrings()]))
    rows = [_formatted(number, *pair) for number, pair in enumerate(json.loads(text))]
    return split_by_prompt(rows, "data='stdlib'")


def _formatted(number: int, call: str, sentence: str) -> Row:
    """Every third row is plain, the others have a format."""
    prompt, count = f"What does the Python function {call} do? Answer in one sentence.", len(sentence.split())
    if number % 3 == 0:
        return Row(prompt, sentence)
    if number % 6 == 1:
        return Row(f"{prompt} Use capital letters only.", sentence.upper(), formats=(("capitals", ""),))
    if number % 6 == 4:
        return Row(f"{prompt} End with: {_END}", f"{sentence} {_END}", formats=(("end", _END),))
    return Row(f"{prompt} Use at most {count} words.", sentence, formats=(("words", str(count)),))


def _docstrings() -> Iterator[tuple[str, str]]:
    """Call and docstring of the public functions and methods whose docstring is one sentence."""
    for module, path in stdlib_modules():
        if not any(part.startswith("_") for part in module.split(".")):
            yield from _of_body(module, _parsed(path))


def _parsed(path: Path) -> list[ast.stmt]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in old sources
            return ast.parse(path.read_bytes()).body
    except (SyntaxError, ValueError):  # a few of its files are templates
        return []


def _of_body(owner: str, body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from _of_body(f"{owner}.{node.name}", node.body)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            text = " ".join((ast.get_docstring(node) or "").split())
            if _SENTENCE.fullmatch(text) and ". " not in text:
                yield f"{owner}.{node.name}({ast.unparse(node.args)})", text
