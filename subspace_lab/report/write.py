"""``report.html``: rendered from the tables of a run, published whole or not at all."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from subspace_lab._version import __version__
from subspace_lab.report.facts import facts, packages, settings
from subspace_lab.report.layers import COLUMNS, layer_rows
from subspace_lab.report.loss import measured_on
from subspace_lab.report.sections import draw_sections, find, loss_sections, task_sections, warnings
from subspace_lab.report.task import task_rows
from subspace_lab.runs import Run, RunError
from subspace_lab.runs.errors import in_shell, printable
from subspace_lab.runs.files import publish
from subspace_lab.runs.run import check_run


def write_report(run: Run) -> Path:
    """Write ``report.html`` into the run directory.

    One file: style, script and figures (SVG) are in it, nothing is fetched. What the run does not hold is left out
    with a sentence that says so.

    Args:
        run: A run that was analysed.

    Returns:
        The file.

    Raises:
        RunError: If the run was not analysed, a table cannot be read, or the file cannot be written.
    """
    check_run(run)
    if not any((run.path / "analysis").glob("*.parquet")):
        raise RunError(f"{run.path} was not analysed yet; run: subspace-lab analyze {in_shell(run.path)}")
    path = run.path / "report.html"
    page = render(run)
    with publish(path) as aside:
        aside.write_bytes(page.encode("utf-8", errors="replace"))
    return path


def render(run: Run) -> str:
    """The page as text.

    Args:
        run: A run that was analysed.

    Returns:
        HTML.
    """
    rows, ranks = layer_rows(run)
    found, problem = find(run)
    sections, absent = draw_sections(run)
    loss, loss_absent = loss_sections(run)
    return render_page(
        "report.html.jinja",
        run=run,
        directory=in_shell(run.path),
        facts=facts(run),
        settings=settings(run),
        packages=packages(run),
        findings=found,
        sections=sections,
        absent=absent,
        task=task_rows(run),
        task_figures=task_sections(run),
        loss=loss,
        loss_absent=loss_absent,
        measured_on=measured_on(run) if loss else "",
        columns=[column for column in COLUMNS if any(row[column.key] is not None for row in rows)],
        rows=rows,
        ranks=ranks,
        warnings=[*problem, *warnings(run)],
    )


def render_page(template: str, **values: Any) -> str:
    """A page of this package: a template that extends ``page.html.jinja``, with style and script in it.

    Args:
        template: Its file.
        values: What it shows; text is escaped.

    Returns:
        HTML.
    """
    environment = Environment(
        loader=PackageLoader("subspace_lab.report", ""),
        autoescape=True,
        finalize=_readable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["sort_value"] = _sort_value
    assets = {"style": _asset("report.css"), "script": _asset("report.js")}
    return environment.get_template(template).render(version=__version__, **assets, **values)


def _sort_value(text: str) -> str:
    """The number with which a text begins, for sorting by it; empty where there is none."""
    found = re.match(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?", text)
    return found[0] if found else ""


def _asset(name: str) -> Markup:
    """A file of this package, which is ours and needs no escaping."""
    return Markup(resources.files("subspace_lab.report").joinpath(name).read_text(encoding="utf-8"))


def _readable(value: object) -> object:
    """A name from a file may hold characters that no page can, or that turn the direction of the text around it."""
    return printable(value, keep="\n\t") if isinstance(value, str) and not isinstance(value, Markup) else value
