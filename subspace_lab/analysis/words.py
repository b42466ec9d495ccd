"""Numbers in sentences."""

from __future__ import annotations

import math

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
        change: The change.

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
