"""Classes, or a number, for one text or two: formats of GLUE (arXiv 1804.07461) and SuperGLUE (arXiv 1905.00537)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from subspace_lab._extras import require
from subspace_lab.training.tasks.base import Metric
from subspace_lab.training.tasks.columns import find_columns, texts_of
from subspace_lab.training.tasks.exercise import ACCURACY, F1, UNPARSED, Exercise, Head
from subspace_lab.training.tasks.pairs import split_of
from subspace_lab.training.tasks.reading import Table
from subspace_lab.training.tasks.rows import Row, Split
from subspace_lab.training.tasks.scorers import exact_label, last_number

MATTHEWS = Metric("eval_matthews", "higher", "")
PEARSON, SPEARMAN = Metric("eval_pearson", "higher", ""), Metric("eval_spearman", "higher", "")
# Columns of a task, the longer sets first, and how they become one text or two.
_SCHEMAS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("premise", "choice1", "choice2", "question"), ("{premise} What is the {question}?", "{choice1} or {choice2}")),
    (("paragraph", "question", "answer"), ("{paragraph}", "{question} {answer}")),  # MultiRC; COPA is the one above
    (("word", "sentence1", "sentence2"), ("{word}: {sentence1}", "{word}: {sentence2}")),  # WiC
    (("passage", "question"), ("{question}", "{passage}")),  # BoolQ
    (("premise", "hypothesis"), ("{premise}", "{hypothesis}")),  # MNLI, CB, RTE of SuperGLUE
    (("question1", "question2"), ("{question1}", "{question2}")),  # QQP
    (("question", "sentence"), ("{question}", "{sentence}")),  # QNLI
    (("sentence1", "sentence2"), ("{sentence1}", "{sentence2}")),  # MRPC, RTE, STS-B
    (("text", "text2"), ("{text}", "{text2}")),
    (("sentence",), ("{sentence}",)),  # CoLA, SST-2
    (("text",), ("{text}",)),
)


def classification(data: str, columns: Mapping[str, str]) -> Exercise:
    """Texts with a label: a class, or a number where labels are not whole.

    Args:
        data: Where rows are: with the columns of a task of GLUE or SuperGLUE, or text (and text2), and label.
        columns: Role (text, text2, label) to column, where the names are others.

    Returns:
        The exercise: accuracy, F1 and Matthews' correlation of classes; Pearson's and Spearman's of numbers.

    Raises:
        ValueError: If a column is missing, or a held-out label stands in no row to train on.
    """
    seen: list[dict[str, int] | None] = []  # the numbers of the labels in the rows to train on, which are read first

    def rows_of(table: Table) -> list[Row]:
        texts, values = _texts(table, columns)
        if not seen:
            seen.append(None if _are_numbers(values) else _numbered(table, values))
        return _rows(table, texts, values, seen[0])

    split = split_of(data, rows_of)
    names = None if seen[0] is None else tuple(seen[0])
    if names is not None:
        _check_seen(split, names)
    return measured(split) if names is None else classified(split, names)


def _texts(table: Table, columns: Mapping[str, str]) -> tuple[list[dict[str, str]], list[str]]:
    """The texts of each row by their names, and its label as a text."""
    label = find_columns(table, columns, {"label": ("label",)})["label"]
    if "text" in columns or "text2" in columns:
        chosen = find_columns(table, columns, {"text": ("text",)}, {"text2": ("text2",)})
        names = [chosen[role] for role in ("text", "text2") if role in chosen]
    else:
        there = {*table.columns}
        names = next(([*needed] for needed, _ in _SCHEMAS if there.issuperset(needed)), [])
    if not names:
        find_columns(table, columns, {"text": ("text", "sentence"), "label": (label,)})
    by_column = {name: texts_of(table, name) for name in names}
    rows = [dict(zip(by_column, values, strict=True)) for values in zip(*by_column.values(), strict=True)]
    return rows, label_texts(table, label)


def label_texts(table: Table, column: str) -> list[str]:
    """The labels of a column as texts: names of classes where the data know them."""
    texts = texts_of(table, column)
    if (names := table.names.get(column)) is None:
        return texts
    for number, text in enumerate(texts, 1):
        if not text.isdecimal() or int(text) >= len(names):
            raise ValueError(f"{table.where} row {number} has the label {text}, known are 0 to {len(names) - 1}; "
                             "leave out rows without a label")  # fmt: skip
    return [names[int(text)] for text in texts]


def _are_numbers(values: Sequence[str]) -> bool:
    """Whether labels are to be predicted as numbers: all are, and one is written with a decimal point."""
    return all(map(_is_number, values)) and any("." in value or "e" in value.lower() for value in values)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _numbered(table: Table, values: Sequence[str]) -> dict[str, int]:
    """Label to number: in the order of the data's own names, of numbers, or of the alphabet."""
    there = {*values}
    for names in table.names.values():
        if there <= {*names}:
            return {name: number for number, name in enumerate(names)}
    ordered = sorted(there, key=(lambda text: (int(text), text)) if all(map(_is_whole, there)) else str)
    if len(ordered) < 2:
        raise ValueError(f"{table.where} has the label {ordered[0]!r} only; give rows of at least two classes")
    return {name: number for number, name in enumerate(ordered)}


def _is_whole(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _rows(
    table: Table, texts: Sequence[Mapping[str, str]], values: Sequence[str], numbers: Mapping[str, int] | None
) -> list[Row]:
    if numbers is None:
        for number, value in enumerate(values, 1):
            if not _is_number(value):
                raise ValueError(f"{table.where} row {number} has the label {value!r}, which is not a number")
        return [_row(of, f"{float(value):.3g}", float(value), None) for of, value in zip(texts, values, strict=True)]
    return [_row(of, value, numbers.get(value, -1), tuple(numbers)) for of, value in zip(texts, values, strict=True)]


def _row(texts: Mapping[str, str], response: str, label: float, names: Sequence[str] | None) -> Row:
    lines = [f"{name}: {text}" for name, text in texts.items()]
    asked = "Which number?" if names is None else f"Which label: {', '.join(names)}?"
    forms = next((forms for needed, forms in _SCHEMAS if {*needed} == {*texts}), None)
    parts = [form.format(**texts) for form in forms] if forms else [*texts.values()]
    return Row("\n".join([*lines, asked]), response, texts=tuple(parts), label=label)


def _check_seen(split: Split, names: Sequence[str]) -> None:
    known = {row.response for row in split.train}
    if unseen := sorted({row.response for row in split.held_out} - known):
        raise ValueError(
            f"{split.origin}: the held-out rows have the label {unseen[0]!r}, which no row to train on has (they have "
            f"{', '.join(name for name in names if name in known)}); add rows of it, or leave it out"
        )


def classified(split: Split, names: Sequence[str]) -> Exercise:
    """Rows with classes; a written reply that is no class is wrong in every metric, and counts as unparsed.

    Args:
        split: Rows whose `Row.label` is the number of a class.
        names: Of the classes.

    Returns:
        The exercise. F1 is that of class 1 of two classes, the mean over the classes of more.

    Raises:
        ModuleNotFoundError: Without the packages of the extra ``finetune``.
    """
    scores = require("sklearn.metrics", extra="finetune")

    def judge(_: Row, reply: str) -> tuple[float]:
        found = exact_label(reply, names)
        return (float(len(names) if found is None else found),)

    metrics = (ACCURACY, F1, MATTHEWS, UNPARSED)
    return Exercise(split, metrics, judge, partial(_of_classes, scores, len(names)), 1, Head(tuple(names)))


def _of_classes(scores: Any, count: int, rows: Sequence[Row], judged: np.ndarray) -> dict[str, float]:
    right, found = np.array([int(row.label) for row in rows]), judged[:, 0].astype(int)
    chosen = [1] if count == 2 else [*range(count)]
    return {
        ACCURACY.name: float(scores.accuracy_score(right, found)),
        F1.name: float(scores.f1_score(right, found, labels=chosen, average="macro", zero_division=0)),
        MATTHEWS.name: float(scores.matthews_corrcoef(right, found)),
        UNPARSED.name: float((found == count).mean()),
    }


def measured(split: Split) -> Exercise:
    """Rows with numbers; a written reply without a number counts as the smallest one to train on, and as unparsed.

    Args:
        split: Rows whose `Row.label` is the number.

    Returns:
        The exercise; of predictions that are all the same a correlation is 0.
    """
    least = min(row.label for row in split.train)

    def judge(_: Row, reply: str) -> tuple[float, float]:
        found = last_number(reply)
        return (least, 1.0) if found is None else (float(found), 0.0)

    return Exercise(split, (PEARSON, SPEARMAN, UNPARSED), judge, _of_numbers, 2, Head(()))


def _of_numbers(rows: Sequence[Row], judged: np.ndarray) -> dict[str, float]:
    from scipy import stats

    right, found = np.array([row.label for row in rows]), judged[:, 0]
    values: dict[str, Any] = {PEARSON.name: 0.0, SPEARMAN.name: 0.0}
    if len(rows) > 1 and np.ptp(right) > 0 and np.ptp(found) > 0:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.NearConstantInputWarning)
            values = {PEARSON.name: stats.pearsonr(right, found)[0], SPEARMAN.name: stats.spearmanr(right, found)[0]}
    return {**{name: float(value) for name, value in values.items()}, UNPARSED.name: float(judged[:, 1].mean())}
