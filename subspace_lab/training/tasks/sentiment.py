"""Whether a review is positive or negative."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

from subspace_lab.training.tasks.classification import classified, label_texts
from subspace_lab.training.tasks.columns import Names, find_columns, texts_of
from subspace_lab.training.tasks.exercise import Exercise
from subspace_lab.training.tasks.pairs import split_of
from subspace_lab.training.tasks.reading import Table
from subspace_lab.training.tasks.rows import Row, Split, split_by_prompt

LABELS = ("negative", "positive")
_NAMES: Names = {"text": ("text", "sentence", "review"), "label": ("label", "sentiment")}
_COUNT = 4000
_THINGS = (
    "film",
    "book",
    "play",
    "album",
    "meal",
    "hotel",
    "museum",
    "camera",
    "phone",
    "concert",
    "course",
    "bicycle",
)
_PARTS = ("ending", "price", "service", "design", "beginning", "sound", "staff", "quality", "pace", "handling")
_WORDS = {
    "positive": ("wonderful", "delightful", "excellent", "charming", "superb", "a real pleasure", "well worth it"),
    "negative": ("dreadful", "disappointing", "boring", "a waste of time", "poor", "annoying", "not worth it"),
}
_VERDICTS = {
    "positive": ("I would recommend it to anyone", "I loved it", "I will come back to it", "it exceeded my hopes"),
    "negative": ("I cannot recommend it", "I regret it", "never again", "it fell short of my hopes"),
}
_DISTRACTORS = (
    "my neighbour found it {other}, which I do not understand",
    "I had heard that it was {other}, and that is wrong",
    "the last one I tried was {other}, unlike this one",
    "we went there on a {day}",
    "it was a present from my sister",
    "others may well call it {other}",
)
_DAYS = ("Monday", "Tuesday", "Friday", "Sunday", "rainy afternoon", "holiday")


def sentiment(data: str, columns: Mapping[str, str]) -> Exercise:
    """Reviews, and ``negative`` or ``positive`` as the response.

    Args:
        data: ``templates`` (4,000 reviews that are generated here, half of them positive, with clauses that speak of
            the opposite), or where rows with text and label are (SST-2, IMDB).
        columns: Role to column, where the names are others.

    Returns:
        The exercise; a reply counts where it is exactly one of the labels.

    Raises:
        ValueError: If a label is neither of the two, or 0 or 1.
    """
    return classified(reviews(data, columns), LABELS)


def reviews(data: str, columns: Mapping[str, str]) -> Split:
    """The rows of `sentiment`.

    Args:
        data: See there.
        columns: See there.

    Returns:
        Rows to train on and rows held out; the response is one of the labels.
    """
    if data == "templates":
        return split_by_prompt([*_generated()], "data='templates'")
    return split_of(data, lambda table: _rows(table, columns))


def _rows(table: Table, columns: Mapping[str, str]) -> Sequence[Row]:
    found = find_columns(table, columns, _NAMES)
    numbers = {"0": 0, "1": 1, "neg": 0, "pos": 1, **{name: number for number, name in enumerate(LABELS)}}
    rows = []
    for text, label in zip(texts_of(table, found["text"]), label_texts(table, found["label"]), strict=True):
        if (number := numbers.get(label.lower())) is None:
            raise ValueError(
                f"{table.where} has the label {label!r}, sentiment knows negative (0) and positive (1); for other "
                "labels take task classification"
            )
        rows.append(_row(text, number))
    return rows


def _row(text: str, label: int) -> Row:
    prompt = f"Review: {text}\nIs the review {' or '.join(LABELS)}?"
    return Row(prompt, LABELS[label], texts=(text,), label=label)


def _generated() -> Iterator[Row]:
    draw, seen = random.Random(0), set[str]()
    while len(seen) < _COUNT:
        label = len(seen) % 2
        text = _review(draw, LABELS[label], LABELS[1 - label])
        if text not in seen:
            seen.add(text)
            yield _row(text, label)


def _review(draw: random.Random, label: str, other: str) -> str:
    thing, part = draw.choice(_THINGS), draw.choice(_PARTS)
    clauses = [
        f"the {part} of this {thing} was {draw.choice(_WORDS[label])}",
        draw.choice(_DISTRACTORS).format(other=draw.choice(_WORDS[other]), day=draw.choice(_DAYS)),
        draw.choice(_VERDICTS[label]),
    ]
    draw.shuffle(clauses)
    text = "; ".join(clauses)
    return f"{text[0].upper()}{text[1:]}."
