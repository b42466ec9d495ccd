"""The parts of the report that may be missing: findings, figures, and the warnings that say so."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from markupsafe import Markup

from subspace_lab.analysis import Finding, findings, notices
from subspace_lab.analysis.energy import undetermined
from subspace_lab.figures import FIGURES, LOSS_FIGURES, NARROW, TASK_FIGURES, WIDE, AbsentError
from subspace_lab.figures.loss.over_depth import OverDepth
from subspace_lab.figures.style import Picture
from subspace_lab.report.svg import inline_svg
from subspace_lab.runs import Run, RunError
from subspace_lab.runs.tables import TABLES


@dataclass(frozen=True)
class Section:
    """A figure of the report.

    Attributes:
        name: The figure's name, unique on the page.
        title: Its title.
        caption: What it shows, how to read it, when it misleads.
        wide: The figure for desktops and paper.
        narrow: The figure for phones.
    """

    name: str
    title: str
    caption: str
    wide: Markup
    narrow: Markup


def draw_sections(run: Run) -> tuple[list[Section], list[tuple[str, str]]]:
    """The figures that can be drawn, and why the others cannot.

    Args:
        run: A run that was analysed.

    Returns:
        The figures, and titles with reasons.
    """
    return sections_of(FIGURES, run)


def loss_sections(run: Run) -> tuple[list[Section], list[tuple[str, str]]]:
    """The figures of the loss at the checkpoints; nothing at all of a run that it was not measured of.

    Args:
        run: A run that was analysed.

    Returns:
        The figures, and titles with reasons.
    """
    sections, absent = sections_of(LOSS_FIGURES, run)
    return (sections, absent) if sections else ([], [])


def task_sections(run: Run) -> list[Section]:
    """The figures of a labelled task; none for other runs.

    Args:
        run: A run that was analysed.

    Returns:
        The figures.
    """
    return sections_of(TASK_FIGURES, run)[0]


def sections_of(
    figures: Mapping[str, ModuleType | OverDepth | Picture], source: Any
) -> tuple[list[Section], list[tuple[str, str]]]:
    """`draw_sections` of any figures.

    Args:
        figures: Figures, or their files, by name.
        source: What they are drawn from.

    Returns:
        The figures, and titles with reasons.
    """
    sections, absent = [], []
    for name, figure in figures.items():
        if isinstance(figure, Picture):
            title, caption = figure.title, figure.caption
        else:
            title, caption = figure.TITLE, figure.CAPTION
        try:
            wide = inline_svg(figure.draw(source, WIDE), WIDE, f"{name}-wide-")
            narrow = inline_svg(figure.draw(source, NARROW), NARROW, f"{name}-narrow-")
        except AbsentError as reason:
            absent.append((title, str(reason)))
            continue
        sections.append(Section(name, title, caption, wide, narrow))
    return sections, absent


def find(run: Run) -> tuple[list[Finding], list[str]]:
    """The findings, or why there are none.

    Args:
        run: A run that was analysed.

    Returns:
        The findings, and warnings.
    """
    try:
        return findings(run), []
    except RunError as error:
        return [], [f"There are no findings: {error}"]


def warnings(run: Run) -> list[str]:
    """What a reader must know before trusting the numbers.

    Args:
        run: A run that was analysed.

    Returns:
        One sentence each.
    """
    found = []
    if not run.manifest.get("finished", True):
        found.append("The run is not complete; what is here covers the steps that were captured before.")
    if not run.steps:
        found.append("Nothing was captured.")
    try:
        found += notices(run)
    except RunError as error:
        found.append(f"Not all snapshots could be read: {error}")
    with suppress(RunError):  # not analysed yet
        found += filter(None, [undetermined(run.table("energy", TABLES["energy"]))])
    return found
