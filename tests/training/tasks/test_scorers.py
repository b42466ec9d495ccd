"""Scorers on replies that were written by hand."""

from __future__ import annotations

from decimal import Decimal

import pytest

from subspace_lab.training.tasks.instructions import obeys
from subspace_lab.training.tasks.scorers import exact_label, exact_match, last_number, normalized, token_f1


@pytest.mark.parametrize(
    ("reply", "reference", "exact", "f1"),
    [
        ("text/html", "text/html", 1, 1),
        ("  Text/HTML.\n", "text/html", 1, 1),  # wrong case, a full stop
        ("Sure! The MIME type is text/html", "text/html", 0, 2 / 6),  # chatty: sure mime type is texthtml
        ("", "text/html", 0, 0),
        ("the", "Not Found", 0, 0),  # nothing is left of it
        ("Not Found or Forbidden", "Not Found", 0, 4 / 6),  # two answers
        ("Found Not", "Not Found", 0, 1),
        ("not not found", "Not Found", 0, 0.8),  # a word counts as often as it occurs
        ("cafe\u0301 \uff41", "CAFÉ a", 1, 1),  # combined marks; a wide letter that becomes an article
        ("straße", "STRASSE", 1, 1),
        ("«Oui»", "oui", 1, 1),
        ("東京", "東京。", 1, 1),
    ],
)
def test_texts(reply: str, reference: str, exact: float, f1: float) -> None:
    assert exact_match(reply, reference) == exact
    assert token_f1(reply, reference) == pytest.approx(f1)


def test_two_empty_texts_are_the_same() -> None:
    assert token_f1("", "...") == exact_match("", "...") == 1


def test_normalized_leaves_words_that_only_begin_with_an_article() -> None:
    assert normalized("Another theory, an atom") == "another theory atom"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 18", "18"),
        ("She has 3 apples and 4 pears, so 7.", "7"),
        ("The answer is 1,234,567.50 dollars.", "1234567.50"),
        ("between 16 and 17", "17"),
        ("1, 2, 3", "3"),
        ("1,2,3", "3"),
        ("it is -5", "-5"),
        ("it is \u22125", "-5"),
        ("9-5", "5"),
        ("(2)-5", "5"),
        ("= -5.25!", "-5.25"),
        ("$12", "12"),
        ("", None),
        ("seven", None),
    ],
)
def test_the_last_number(text: str, number: str | None) -> None:
    assert last_number(text) == (None if number is None else Decimal(number))


def test_numbers_are_compared_as_numbers() -> None:
    assert last_number("18.0") == last_number("#### 18")


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("positive", 1), ("\n negative ", 0), ("Positive", None), ("positive.", None), ("", None),
        ("positive or negative", None), ("I think it is positive", None), ("p\u00f6sitive", None),
    ],
)  # fmt: skip
def test_labels_are_exact(reply: str, label: int | None) -> None:
    assert exact_label(reply, ["negative", "positive"]) == label


@pytest.mark.parametrize(
    ("reply", "form", "argument", "is_obeyed"),
    [
        ("one two three", "words", "3", True), ("one two three four", "words", "3", False), ("", "words", "3", False),
        ("RETURN É 2.", "capitals", "", True), ("RETURN e", "capitals", "", False), ("12", "capitals", "", False),
        ("Returns it. That is all.", "end", "That is all.", True), ("That is all. Bye", "end", "That is all.", False),
    ],
)  # fmt: skip
def test_formats(reply: str, form: str, argument: str, is_obeyed: bool) -> None:
    assert obeys(reply, form, argument) == is_obeyed
