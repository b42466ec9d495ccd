"""The page with the headline and the verdict on every claim; written from the tables, never by hand."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from subspace_lab._text import count
from subspace_lab.experiments.claims import RULES, Claim, Statement, together
from subspace_lab.experiments.page import Table, statement_table, verdict_table
from subspace_lab.experiments.present import number
from subspace_lab.report.pages import markdown_table
from subspace_lab.runs.files import publish
from subspace_lab.studies.safety.claims import CLAIMS
from subspace_lab.studies.safety.config import StudyConfig
from subspace_lab.studies.safety.figures.all import FIGURES
from subspace_lab.studies.safety.profiles import PROFILES
from subspace_lab.studies.safety.reading import CELL, Tables
from subspace_lab.studies.safety.stages import NONE
from subspace_lab.studies.safety.summary import GUARD

LEGEND = (
    f"ASR: share of restricted prompts that are answered, at the learning rate with the highest mean among those that "
    f"keep {GUARD:g} of the best undefended utility; choice and value rest on the same seeds",
    "gap: to no defense with the same optimizer; to control: to rehearsal of safety rows; both paired by seed",
    "over-refusal: share of allowed prompts that look restricted and are refused; kept: of other allowed prompts that "
    "are answered right",
    "consistency: share of pairs of paraphrases that are both refused or both not; a model that always refuses, or "
    "never, has 1",
    "passes: forward-backward passes of a training; brackets: Student's 95 % interval over seeds, cut at what is "
    "possible",
)
_FEW = 4  # names in a line
UNGUARDED, UNSUPPORTED = "no rate keeps the task", "not supported"


def write(
    tables: Tables,
    path: Path,
    *,
    config: StudyConfig,
    environment: Mapping[str, Any],
    data: Path,
    pictures: Path,
) -> None:
    """Write the page of a study.

    Args:
        tables: Those of a study.
        path: The page.
        config: What was asked for.
        environment: Where it was made.
        data: Directory of the tables.
        pictures: Directory of the figures; those that are not there are left out.

    Raises:
        RunError: If the page cannot be written.
    """
    found = {claim.name: claim.statements(tables) for claim in CLAIMS}
    link, figures = (Path(os.path.relpath(place, path.parent)).as_posix() for place in (data, pictures))
    parts = [
        _head(tables, config, environment, link),
        "\n".join(["## In short", "", *markdown_table(*verdict_table(found))]),
        f"## How it is decided\n\n{RULES}",
        *_headline(tables),
        *(_claim(claim, found[claim.name]) for claim in CLAIMS),
        *_pictures(pictures, figures),
        *_lost(tables),
    ]
    with publish(path) as aside:
        aside.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _head(tables: Tables, config: StudyConfig, environment: Mapping[str, Any], link: str) -> str:
    names = [name for name, one in PROFILES.items() if _same(one, config)]
    command = f"`subspace-lab safety run OUT_DIR --profile {names[0]}`" if names else "`subspace-lab safety run`"
    where = ", ".join(
        f"{name} {environment[name]}" for name in ("processor", "torch", "python") if environment.get(name)
    )
    results = tables.results
    done = results.loc[results["status"] == "complete", "cell"].nunique() if len(results) else 0
    model = f"the policy `{config.policy}` on {f'`{config.base}`' if config.base else 'its own model'}"
    counts = (
        count(len(tables.threats), "threat"), count(len(tables.regimes), "optimizer"),
        count(len(tables.defenses), "defense"), count(config.seeds, "seed"),
    )  # fmt: skip
    return (
        f"# Fine-tuning and safety\n\nWritten from the tables of {command} in `{link}`; nothing here is written by "
        f"hand. {count(done, 'model')} evaluated{f' ({where})' if where else ''}.\n\n"
        f"**Scale.** {model[0].upper()}{model[1:]}, {count(config.steps, 'step')} of {config.batch_size} rows on "
        f"{', '.join(f'`{task}`' for task in config.tasks)}: {', '.join(counts)}. A verdict at this scale need not "
        "hold at another one."
    )


def _same(one: StudyConfig, other: StudyConfig) -> bool:
    """Whether two configurations are equal but for a precision that was settled."""
    return dataclasses.replace(one, precision=other.precision) == other


def headline_table(tables: Tables) -> Table:
    """The summary as text: one row per cell, the largest share of poison first; what all rows agree in is left out.

    Args:
        tables: Those of a study.

    Returns:
        Headings and rows.
    """
    strongest_first = {threat: -place for place, threat in enumerate(tables.threats)}
    rows = tables.headline
    if len(rows):
        rows = rows.sort_values("threat", key=lambda names: names.map(strongest_first), kind="stable")
    kept = [name for name in CELL if name == "defense" or (len(rows) and rows[name].nunique() > 1)]
    headings = (
        *kept,
        "lr",
        "ASR",
        "gap",
        "to control",
        "utility",
        "over-refusal",
        "kept",
        "consistency",
        "passes",
        "seeds",
    )
    return headings, [(*(row[name] for name in kept), *_numbers(row)) for row in rows.to_dict("records")]


def _numbers(row: Mapping[Hashable, Any]) -> Sequence[Any]:
    if not row["seeds"]:
        return ("-", UNSUPPORTED if row["unsupported"] else "-", *["-"] * 7, 0)
    return (
        f"{row['lr']:g}", _between(row, "asr", "{:.2f}", 0.0, 1.0) if row["guarded"] else UNGUARDED,
        *(_between(row, name, "{:+.2f}") if row["defense"] != other else "-"
          for name, other in (("gap", NONE), ("control_gap", row["control"]))),
        number(row["utility"], 2), number(row["over_refusal"], 2), number(row["kept"], 2),
        number(row["refusal_consistency"], 2), number(row["passes"], 0), row["seeds"],
    )  # fmt: skip


def _between(row: Mapping[Hashable, Any], name: str, form: str, least: float = -1.0, most: float = 1.0) -> str:
    """A value with its interval, cut at what is possible."""
    if pd.isna(row[name]):
        return "-"
    ends = [min(most, max(least, row[f"{name}_{end}"])) for end in ("low", "high")]
    return form.format(row[name]) + ("" if pd.isna(row[f"{name}_low"]) else " [{}, {}]".format(*map(form.format, ends)))


def _headline(tables: Tables) -> Iterator[str]:
    headings, rows = headline_table(tables)
    if rows:
        legend = "\n".join(f"- {line}" for line in LEGEND)
        yield "\n".join(["## Every defense", "", *markdown_table(headings, rows), "", legend])


def _claim(claim: Claim, statements: list[Statement]) -> str:
    head = f"## {claim.name}\n\n{claim.text}\n\n"
    if not statements:
        return head + "Not measured yet."
    table = "\n".join(markdown_table(*statement_table(statements)))
    return head + f"**{together(statements).capitalize()}.**\n\n{table}"


def _pictures(pictures: Path, figures: str) -> Iterator[str]:
    there = {name: one for name, one in FIGURES.items() if (pictures / f"{name}.png").is_file()}
    if there:
        yield "## Figures"
    for name, one in there.items():
        yield f"### {one.title}\n\n![{one.title}]({figures}/{name}.png)\n\n{one.caption}"


def _lost(tables: Tables) -> Iterator[str]:
    if lines := lost_lines(tables.results):
        yield "## Without a result\n\n" + "\n".join(f"- {line}" for line in lines)


def lost_lines(results: pd.DataFrame) -> list[str]:
    """Why some cells have no result: pairs that are not supported, trainings that failed, judges that cannot be asked.

    Args:
        results: The table.

    Returns:
        A line for each status and reason: the reason, of which defenses and optimizers, and how many rows.
    """
    if results.empty:
        return []
    lost = results[(results["status"] != "complete") & (results["reason"] != "")]
    lines = []
    for (status, reason), rows in lost.groupby(["status", "reason"], sort=False):
        cells = rows.drop_duplicates([*CELL, "stage", "lr", "seed", "draw"])
        where = " with ".join(_few(cells[name]) for name in ("defense", "regime") if cells[name].any())
        lines.append(f"{status}: {reason} ({where}; {count(len(cells), 'cell')})")
    return lines


def _few(names: pd.Series[str]) -> str:
    """Some names, or how many there are."""
    found = list(dict.fromkeys(name for name in names if name))
    return ", ".join(found) if len(found) <= _FEW else f"{len(found)} {names.name}s"
