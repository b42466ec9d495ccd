"""What the commands print: sound on any terminal, in any encoding, to whoever reads it or stops reading."""

from __future__ import annotations

import codecs
import os
import re
import sys
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_PLAIN = {"≤": "<=", "≥": ">=", "±": "+-", "×": "x", "→": "->", "…": "...", "–": "-", "−": "-", "·": "."}
_COLOURS = re.compile("\x1b\\[[0-9;]*m")
_LEAST_COLUMNS = 20
_LONGEST, _TAIL = 2000, 500  # characters of an error, and how many of them are its end, which says what to do


def prepare_streams() -> None:
    """Make the standard streams fit for whatever is printed, before anything is.

    A stream that was closed (``>&-``) writes to nowhere, and no file that is opened later takes its place. What an
    encoding lacks is spelled out. Characters that steer a terminal or turn its direction are escaped on stdout.
    """
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= 2:
        descriptor = os.open(os.devnull, os.O_RDWR)
    os.close(descriptor)
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    codecs.register_error("subspace_lab", _spelled_out)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="subspace_lab")
    if not isinstance(sys.stdout, _Printable):
        sys.stdout = _Printable(sys.stdout)
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) < _LEAST_COLUMNS:
        os.environ["COLUMNS"] = str(_LEAST_COLUMNS)


def settle_streams() -> OSError | None:
    """Flush the standard streams, and have the exit of the process not fail on them.

    Returns:
        What stdout said of it: whoever reads has stopped, or the disk is full.
    """
    found = None
    for stream in (sys.stderr, sys.stdout):
        try:
            stream.flush()
        except OSError as error:
            found = error if stream is sys.stdout else found
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return found


def one_line(message: object) -> str:
    """A message in one line of bearable length, without characters that steer a terminal.

    Args:
        message: An exception, or a text.

    Returns:
        The line; of a very long one the beginning, and the end, which says what to do.
    """
    from subspace_lab.runs.errors import printable

    text = printable(" ".join(str(message).splitlines()))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - _TAIL]} ... {text[-_TAIL:]}"


def tell(line: str) -> None:
    """A line on stderr, if anybody reads it."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


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
    from rich.segment import Segment, Segments

    from subspace_lab.runs.errors import printable

    console = output()
    least = Measurement.get(console, console.options.update(width=10_000), table).minimum
    console.width = max(console.width, least)
    cells = [
        Segment(text if control else printable(text, keep="\n"), style, control)
        for text, style, control in console.render(table)
    ]
    with console.capture() as text:  # a console has a way of its own with whoever stops reading
        console.print(Segments(cells), end="", soft_wrap=True)
    print(text.get(), end="")


class _Printable:
    """A text stream on which nothing steers the terminal but colours; everything else is that of the stream itself."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._has_colours = stream.isatty() or bool(os.environ.get("FORCE_COLOR"))

    def write(self, text: str) -> int:
        if not text.replace("\n", "").isprintable():
            from subspace_lab.runs.errors import printable

            parts = _COLOURS.split(text) if self._has_colours else [text]
            colours = [*_COLOURS.findall(text), ""] if self._has_colours else [""]
            self._stream.write("".join(printable(a, keep="\n\t") + b for a, b in zip(parts, colours, strict=True)))
        else:
            self._stream.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _spelled_out(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    known = (_PLAIN.get(character) or character.encode("unicode_escape").decode() for character in text)
    return "".join(known), error.end
