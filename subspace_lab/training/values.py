"""Values that were written as words."""

from __future__ import annotations

from contextlib import suppress


def plain_value(word: str) -> bool | int | float | str | None:
    """What a word stands for: a number, true, false, none, or itself.

    Args:
        word: The word.

    Returns:
        Its value.

    >>> plain_value("16"), plain_value("1e-3"), plain_value("None"), plain_value("channel")
    (16, 0.001, None, 'channel')
    """
    words = {"true": True, "false": False, "none": None}
    if word.lower() in words:
        return words[word.lower()]
    for number in (int, float):
        with suppress(ValueError):
            return number(word)
    return word
