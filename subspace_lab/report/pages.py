"""Generated parts of pages in Markdown: the lines between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from subspace_lab.runs.files import publish


def fill(page: str, mark: str, content: str) -> str:
    """Replace what is between the two marks of a name; each mark is a line of its own.

    Args:
        page: Text of the page.
        mark: Name in the marks.
        content: New lines between them, each ended by a newline.

    Returns:
        Text of the page; the marks and everything outside them are unchanged.

    Raises:
        ValueError: If the page does not have each of the marks once and in this order.
    """
    begin, end = (f"<!-- {mark}: {which} -->" for which in ("begin", "end"))
    found = {line: list(re.finditer(rf"^{re.escape(line)}$", page, re.MULTILINE)) for line in (begin, end)}
    for line, places in found.items():
        if len(places) != 1:
            raise ValueError(f"the line {line} must be on the page once, it is there {len(places)} times")
    first, last = found[begin][0].end(), found[end][0].start()
    if last < first:
        raise ValueError(f"the line {end} must be below the line {begin}")
    return f"{page[:first]}\n{content}{page[last:]}"


def fill_file(path: Path, mark: str, content: str) -> None:
    """`fill` for a file in UTF-8, which is replaced atomically.

    Raises:
        ValueError: If the page does not have each of the marks once and in this order; the message names the file.
        RunError: If the file cannot be written.
    """
    try:
        page = fill(path.read_text(encoding="utf-8"), mark, content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    with publish(path) as aside:
        aside.write_text(page, encoding="utf-8")


def fill_from(result: Path, page: Path, mark: str, render: Callable[[Any], str]) -> None:
    """Fill a page from a committed result; both paths are those of the repository, seen from its root.

    Args:
        result: A JSON file.
        page: A page in UTF-8.
        mark: Name in the marks.
        render: Makes the lines between the marks of what the JSON file holds.

    Raises:
        SystemExit: In one line, if one of the files is not there.
        ValueError: If the page does not have each of the marks once and in this order.
        RunError: If the page cannot be written.
    """
    for path in (result, page):
        if not path.is_file():
            raise SystemExit(f"there is no {path} in {Path.cwd()}; run this at the root of the repository")
    fill_file(page, mark, render(json.loads(result.read_text(encoding="utf-8"))))


def markdown_table(headings: Collection[str], rows: Iterable[Iterable[Any]]) -> list[str]:
    """The lines of a table in Markdown; cells may be anything with a text."""
    first, *others = (f"| {' | '.join(map(str, row))} |" for row in (headings, *rows))
    return [first, "|" + "---|" * len(headings), *others]
