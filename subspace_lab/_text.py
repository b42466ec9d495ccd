"""Text: numbers in sentences, the known name that is nearest to an unknown one, and the value that a word spells."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

_MOST_DECIMALS = 4


def count(number: int, what: str) -> str:
    """A number of things.

    Args:
        number: How many.
        what: What, one of them.

    Returns:
        Text.

    >>> count(1, "step"), count(20, "step")
    ('1 step', '20 steps')
    """
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def first_line(error: Exception) -> str:
    r"""What an error of another library says, in one line: its first, or its name.

    Args:
        error: The error.

    Returns:
        Text.

    >>> first_line(ValueError("no such file\nTraceback")), first_line(KeyError())
    ('no such file', 'KeyError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def percent(share: float) -> str:
    """A share with one decimal; what is neither nothing nor everything does not round to it.

    Args:
        share: In [0, 1].

    Returns:
        Text.

    >>> percent(0.5), percent(0.0002), percent(0.99996), percent(1.0)
    ('50.0%', '<0.1%', '>99.9%', '100.0%')
    """
    if 0 < share < 0.0005:
        return "<0.1%"
    return ">99.9%" if 0.9995 <= share < 1 else f"{share:.1%}"


def signed(change: float) -> str:
    """A change with its sign, which zero has not.

    Args:
        change: A difference of two shares, for example.

    Returns:
        Text.

    >>> signed(0.0451), signed(-0.0004), signed(-0.02)
    ('+0.045', '0.000', '-0.020')
    """
    text = f"{change:+.3f}"
    return text if float(text) else text[1:]


def alike(*values: float) -> list[str]:
    """Numbers that stand beside each other, with as many decimals as the smallest needs for two digits, at most four.

    Args:
        *values: Not negative.

    Returns:
        Text.

    >>> alike(0.0102, 0.45)
    ['0.010', '0.450']
    >>> alike(0.00001, 0.0712)
    ['<0.0001', '0.0712']
    """
    smallest = min((value for value in values if value > 0), default=1.0)
    decimals = min(max(2, 1 - math.floor(math.log10(smallest))), _MOST_DECIMALS)
    least = 10.0**-decimals
    return [f"<{least:.{decimals}f}" if 0 < value < least / 2 else f"{value:.{decimals}f}" for value in values]


def nearest(name: str, known: Iterable[str], *, at_least: float = 0.0) -> str | None:
    """The known name that is most like another one.

    Args:
        name: The name as given.
        known: The names that exist.
        at_least: How much alike they must be, from 0 to 1 for equal (`difflib.SequenceMatcher.ratio`).

    Returns:
        One of the known names, or None where there is none that is alike.

    >>> nearest("llama-60", ["llama-2m", "llama-60m"])
    'llama-60m'
    """
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=at_least)), None)


def nearest_to_pattern(pattern: str, names: Iterable[str]) -> str:
    """The three names that are most like a pattern that matches none of them.

    Args:
        pattern: A glob.
        names: Canonical parameter names.

    Returns:
        The names, separated by commas, the most similar first; "none" without any.

    >>> nearest_to_pattern("*.mlp.downproj.*", ["0.attn.q_proj.weight", "0.mlp.down_proj.weight"])
    '0.mlp.down_proj.weight, 0.attn.q_proj.weight'
    """
    return ", ".join(sorted(names, key=lambda name: _likeness(name, pattern), reverse=True)[:3]) or "none"


def _likeness(name: str, pattern: str) -> tuple[int, float]:
    """How many characters of the pattern's literal pieces the name has in a row, then how alike the two are."""
    pieces = (piece for piece in re.split(r"[*?\[\]]+", pattern) if piece)
    common = sum(
        difflib.SequenceMatcher(None, name, piece, autojunk=False).find_longest_match().size for piece in pieces
    )
    return common, difflib.SequenceMatcher(None, name, pattern, autojunk=False).ratio()


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The one line for a name that is not in a table, with the nearest that is.

    Args:
        what: What the name stands for, ``"preset"`` for example.
        name: The name as given.
        known: The names that exist, at least one.

    Returns:
        The message.

    >>> unknown("preset", "llama-60", ["llama-2m", "llama-60m"])
    "there is no preset 'llama-60'; nearest: llama-60m (known: llama-2m, llama-60m)"
    """
    names = list(known)
    return f"there is no {what} {name!r}; nearest: {nearest(name, names)} (known: {', '.join(names)})"


def plain_value(word: str) -> bool | int | float | str | None:
    """What a word stands for: a number, true, false, none, or itself.

    Args:
        word: As it was typed.

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


def named_settings(text: str) -> tuple[str, dict[str, Any]]:
    """A name and the settings that follow it after colons.

    Args:
        text: As it was typed: ``grasswalk:walk-step=0.05:rank=16``.

    Returns:
        The name, and values by setting.

    Raises:
        ValueError: If a part is not ``name=value``, or a setting stands in it twice.

    >>> named_settings("grasswalk:walk-step=0.05")
    ('grasswalk', {'walk_step': 0.05})
    """
    name, *pairs = text.strip().split(":")
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals and value):
            raise ValueError(f"{text!r}: {pair!r} is not a setting; write name=value, as in {name}:rank=16")
        if (key := key.replace("-", "_")) in settings:
            raise ValueError(f"{text!r} says {key} twice; leave one out")
        settings[key] = plain_value(value)
    return name, settings
