"""Checks of what analyses are asked for."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike

from subspace_lab._checks import whole_number
from subspace_lab.runs import Run


def check_run(run: Run) -> None:
    """Refuse what is not an opened run, above all its path.

    Args:
        run: What an analysis was given.

    Raises:
        TypeError: If it is something else; the message says how to open a run.
    """
    if not isinstance(run, Run):
        path = repr(str(run)) if isinstance(run, str | PathLike) else "path"
        raise TypeError(f"a run is needed, got {run!r}; open one first: subspace_lab.Run.open({path})")


def check_lags(lags: int | Iterable[int]) -> tuple[int, ...]:
    """Lags in captures, ascending.

    Args:
        lags: Positive integers or a single one.

    Returns:
        The lags, without repetition.
    """
    return tuple(sorted({whole_number("lag", lag) for lag in each(lags)}))


def each(values: int | Iterable[int]) -> Iterable[int]:
    """Several numbers, or a single one as several."""
    return values if isinstance(values, Iterable) else (values,)
