"""Checks of arguments: one of each kind, with one wording, for the whole package."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any, TypeGuard


def is_whole(value: Any, least: int = 1, below: int | None = None) -> TypeGuard[int]:
    """Whether a value is an integer of some range; integers of numpy and torch are, True and False are not.

    Args:
        value: Anything.
        least: The smallest that is allowed.
        below: All that are allowed are smaller; None for no upper limit.

    Returns:
        Whether it is.

    >>> is_whole(1), is_whole(0), is_whole(1.0), is_whole(True)
    (True, False, False, False)
    """
    try:
        number = operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool) and number >= least and (below is None or number < below)


def is_number(value: Any) -> bool:
    """Whether a value is a finite real number; those of numpy are, True and False are not."""
    is_real = isinstance(value, Real) and not isinstance(value, bool)
    return is_real and bool(-math.inf < value < math.inf)


def plain_number(value: Any) -> float:
    """A real number as Python's: JSON knows no others."""
    if type(value) in {int, float}:
        return value  # type: ignore[no-any-return]
    return operator.index(value) if isinstance(value, Integral) else float(value)


def is_decay_rates(value: Any) -> bool:
    """Whether a value is Adam's two decay rates: numbers in [0, 1)."""
    return (
        isinstance(value, tuple | list) and len(value) == 2 and all(is_number(beta) and 0 <= beta < 1 for beta in value)
    )


def whole_number(name: str, value: Any, least: int = 1, below: int | None = None, *, otherwise: str = "") -> int:
    """An argument that must be an integer of some range.

    Args:
        name: The argument, for the message.
        value: What the caller gave.
        least: The smallest that is allowed.
        below: All that are allowed are smaller; None for no upper limit.
        otherwise: What else is allowed, for the message, from its comma on.

    Returns:
        The value as Python's integer.

    Raises:
        ValueError: If it is anything else.

    >>> whole_number("rank", 0)
    Traceback (most recent call last):
    ValueError: rank must be a whole number of at least 1, got 0
    """
    if not is_whole(value, least, below):
        limit = "" if below is None else f" and below {below}"
        raise ValueError(f"{name} must be a whole number of at least {least}{limit}{otherwise}, got {value!r}")
    return operator.index(value)


def whole_numbers(name: str, values: Any) -> tuple[int, ...]:
    """An argument of one or several integers of at least 1.

    Args:
        name: One of them, for the message.
        values: Several, or a single one.

    Returns:
        Python's integers, ascending, without repetition.

    >>> whole_numbers("lag", [4, 1, 4]), whole_numbers("lag", 2)
    ((1, 4), (2,))
    """
    several = values if isinstance(values, Iterable) else (values,)
    return tuple(sorted({whole_number(name, value) for value in several}))


def positive_number(name: str, value: Any, *, otherwise: str = "") -> float:
    """An argument that must be a finite number above zero.

    Args:
        name: The argument, for the message.
        value: What the caller gave.
        otherwise: What else is allowed, for the message, from its comma on.

    Returns:
        The value as Python's number.

    Raises:
        ValueError: If it is anything else.

    >>> positive_number("lr", "1e-3")
    Traceback (most recent call last):
    ValueError: lr must be a positive number, got '1e-3'
    """
    if not is_number(value) or value <= 0:
        raise ValueError(f"{name} must be a positive number{otherwise}, got {value!r}")
    return plain_number(value)


def check_choice(name: str, value: Any, choices: Iterable[Any], *, otherwise: str = "") -> None:
    """Refuse an argument that is not one of a few texts (or None, where that is among the choices).

    Args:
        name: The argument, for the message.
        value: What the caller gave.
        choices: All that are allowed.
        otherwise: What else is allowed, for the message, from its comma on.

    Raises:
        ValueError: If it is anything else.

    >>> check_choice("side", "top", ("left", "right"))
    Traceback (most recent call last):
    ValueError: side must be one of 'left', 'right', got 'top'
    """
    choices = list(choices)
    if not is_choice(value, choices):
        raise ValueError(f"{name} must be {one_of(choices)}{otherwise}, got {value!r}")


def is_choice(value: Any, choices: Iterable[Any]) -> bool:
    """Whether a value is one of a few texts, or None where that is among them; arrays are not compared."""
    return any(isinstance(value, type(choice)) and value == choice for choice in choices)


def one_of(choices: Iterable[Any]) -> str:
    """Choices in a message: ``one of 'left', 'right'``."""
    return f"one of {', '.join(map(repr, choices))}"


def check_module(model: Any) -> None:
    """Refuse what is not a torch module.

    Args:
        model: What was given as the model.

    Raises:
        ValueError: If it is something else.
    """
    from torch import nn

    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be a torch.nn.Module, got {type(model).__name__}")
