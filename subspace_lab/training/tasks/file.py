"""Prompts and responses of the user's own."""

from __future__ import annotations

from collections.abc import Mapping

from subspace_lab.training.tasks.exercise import EXACT, F1, Exercise, scored
from subspace_lab.training.tasks.pairs import PROMPT, pairs, split_of
from subspace_lab.training.tasks.rows import Row, Split
from subspace_lab.training.tasks.scorers import exact_match, token_f1

_NAMES = {role: names[:1] for role, names in PROMPT.items()}


def file(data: str, columns: Mapping[str, str]) -> Exercise:
    """Columns ``prompt`` and ``response``, or ``messages``, of csv, tsv, jsonl, json or parquet.

    Args:
        data: Where the rows are.
        columns: Role to column, where the names are others.

    Returns:
        The exercise; a reply is scored by `exact_match` and `token_f1`.
    """
    return answered(split_of(data, lambda table: pairs(table, columns, _NAMES)))


def answered(split: Split) -> Exercise:
    """Rows whose replies are compared with one right response."""

    def judge(row: Row, reply: str) -> tuple[float, float]:
        return exact_match(reply, row.response), token_f1(reply, row.response)

    return scored(split, (EXACT, F1), judge)
