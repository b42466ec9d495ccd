"""Limits and ticks."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def limits(values: Iterable[float], *nulls: float, floor: float = 0.0, top: float = 1.0) -> tuple[float, float]:
    """Limits of a y axis that holds the values and the nulls with room for labels, within what is possible."""
    everything = [*values, *nulls]
    low, high = min(everything), max(everything)
    room = max(0.16 * (high - low), 0.04)
    return max(floor - 0.02, low - room), min(top + 0.02, high + room)


def step_axis(ax: Axes) -> None:
    """Few, whole ticks on an axis of steps or depths."""
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))


def log_axis(ax: Axes, *, x: bool = False, low: float, high: float) -> None:
    """A logarithmic axis with ticks in plain text, readable without mathematical typesetting.

    Args:
        ax: Where.
        x: Whether it is the x axis, otherwise the y axis.
        low: The smallest value to be drawn.
        high: The largest value to be drawn.
    """
    axis = ax.xaxis if x else ax.yaxis
    (ax.set_xscale if x else ax.set_yscale)("log")
    axis.set_major_locator(LogLocator(subs=(1,) if high > 50 * low else (1, 2, 5), numticks=6))
    axis.set_major_formatter(FuncFormatter(_plain))
    axis.set_minor_locator(NullLocator())


def _plain(value: float, _position: float) -> str:
    """``0.02``, and ``2·10⁻⁵`` where zeros would have to be counted."""
    if 1e-3 <= value < 1e4:
        return f"{value:g}"
    exponent = int(np.floor(np.log10(value) + 1e-9))
    mantissa = f"{value / 10.0**exponent:.0f}·"
    return f"{'' if mantissa == '1·' else mantissa}10{str(exponent).translate(_SUPERSCRIPTS)}"
