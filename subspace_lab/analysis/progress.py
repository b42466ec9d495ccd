"""A bar for what takes long."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int], None]


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
