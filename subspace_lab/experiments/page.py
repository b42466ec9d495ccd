"""Parts of the page of a study: verdicts, statements and trials without a result, as headings and rows of tables."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from subspace_lab.experiments.claims import SUPPORTED, Statement, together
from subspace_lab.experiments.study import Quantity

Table = tuple[tuple[str, ...], list[tuple[Any, ...]]]  # headings and rows


def verdict_table(found: Mapping[str, Sequence[Statement]]) -> Table:
    """The verdict on each claim, by its name and its statements."""
    rows = []
    for name, statements in found.items():
        supported = sum(one.verdict == SUPPORTED for one in statements)
        verdict = together(statements) if statements else "not measured yet"
        rows.append((name, f"*{verdict}*", f"{supported} of {len(statements)}"))
    return ("claim", "verdict", "statements supported"), rows


def statement_table(statements: Iterable[Statement]) -> Table:
    """Each statement with its mean, its interval and its verdict."""
    rows = []
    for one in statements:
        ends = "-" if one.low != one.low else f"[{one.low:+.4f}, {one.high:+.4f}]"
        rows.append((one.text, f"{one.mean:+.4f} {one.unit}".rstrip(), ends, one.seeds, one.verdict))
    return ("statement", "mean", "interval", "seeds", "verdict"), rows


def without_result(results: pd.DataFrame) -> list[str]:
    """A line for each trial that ended without a result: its directory, its status and the reason."""
    lost = results[~results["status"].isin(["complete", "pending"])]
    return [f"- {row['cell']}: {row['status']} ({row['reason']})" for row in lost.to_dict("records")]


def picture_parts(quantities: Mapping[str, Quantity], root: Path, pictures: Path, page: Path) -> list[str]:
    """The pictures that are there, each with its caption and the table that it is drawn from.

    Args:
        quantities: By the names of their tables.
        root: Directory of the study.
        pictures: Directory of the pictures.
        page: The page, from which links lead.

    Returns:
        Parts of a page in Markdown.
    """
    tables, figures = (Path(os.path.relpath(str(place), str(page.parent))).as_posix() for place in (root, pictures))
    parts = ["## Figures"]
    for name, quantity in quantities.items():
        for file, one in quantity.pictures.items():
            if (pictures / f"{file}.png").is_file():
                parts.append(f"### {one.title}\n\n![{one.title}]({figures}/{file}.png)\n\n{one.caption}")
                parts.append(f"From `{tables}/tables/{name}.parquet`.")
    return parts
