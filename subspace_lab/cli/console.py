"""Tables on the terminal."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def output() -> Console:
    """As wide as the terminal; 120 columns in a pipe, or as COLUMNS says."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120)


def show(table: Table) -> None:
    """Print a table; where it is wider than the terminal its lines wrap, and no number is cut.

    Args:
        table: Columns that may not be folded are `no_wrap`.
    """
    from rich.measure import Measurement

    console = output()
    least = Measurement.get(console, console.options.update(width=10_000), table).minimum
    console.width = max(console.width, least)
    with console.capture() as text:  # a console has a way of its own with whoever stops reading
        console.print(table)
    print(text.get(), end="")
