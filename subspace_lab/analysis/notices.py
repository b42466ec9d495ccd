"""What an analysis says: how far it is, and which rows a run cannot give, in words instead of in silence."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from subspace_lab._text import count
from subspace_lab.runs import Run
from subspace_lab.runs.run import check_run

_ABSENT = {
    "topk": "no stale energy, no curvature and no depth angles on the other side of square layers",
    "stats": "no bases: no stale energy, no angles and no curvature",
}
_NUM_NAMED = 3

Advance = Callable[[int], None]


class AnalysisNotice(UserWarning):
    """Rows that an analysis leaves out because the run does not hold what they need."""


def level_of_caller() -> int:
    """The ``stacklevel`` at which a warning of the calling function names the first line outside of this package."""
    level, frame = 0, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith("subspace_lab."):
        level, frame = level + 1, frame.f_back
    return level + 1


def notices(run: Run) -> list[str]:
    """What is absent from a run's tables, and why.

    Args:
        run: An opened run.

    Returns:
        One sentence for what the reduction does not keep, one for gradients that were not finite, one for layers
        that had no gradient in some steps; empty when there is nothing to say.
    """
    check_run(run)
    found = []
    if (absent := _ABSENT.get(run.keep.partition(":")[0])) is not None:
        found.append(f"keep={run.keep!r} holds {absent}; those rows are absent")
    nonfinite: Counter[str] = Counter()
    missing: Counter[str] = Counter()
    for step in run.steps:
        with run.snapshot(step) as snapshot:
            nonfinite.update(snapshot.context.get("nonfinite", {}).keys())
            missing.update(snapshot.context.get("missing", ()))
    if nonfinite:
        found.append(f"{count(nonfinite.total(), 'gradient')} with NaN or Inf entries left out: {_named(nonfinite)}")
    if missing:
        found.append(f"{count(len(missing), 'layer')} had no gradient in some captured steps: {_named(missing)}")
    return found


def _named(counts: Counter[str]) -> str:
    named = [f"{layer} ({count(number, 'step')})" for layer, number in counts.most_common(_NUM_NAMED)]
    return ", ".join(named) + (f" and {len(counts) - _NUM_NAMED} more" if len(counts) > _NUM_NAMED else "")


@contextmanager
def progress(total: int, title: str) -> Iterator[Advance]:
    """A progress bar on a terminal, nothing elsewhere.

    Args:
        total: Of how many.
        title: What.

    Yields:
        What is called with the number done since.
    """
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.advance(task, done)
