"""``report.html`` of a study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from subspace_lab._text import count
from subspace_lab.experiments.claims import together
from subspace_lab.experiments.page import statement_table
from subspace_lab.experiments.present import number
from subspace_lab.report.sections import sections_of
from subspace_lab.report.write import render_page
from subspace_lab.runs.files import publish
from subspace_lab.studies.safety.claims import CLAIMS
from subspace_lab.studies.safety.figures.all import FIGURES
from subspace_lab.studies.safety.page import LEGEND, headline_table, lost_lines
from subspace_lab.studies.safety.reading import CELL, Tables


def write_report(directory: Path, tables: Tables, *, config: Mapping[str, Any], environment: Mapping[str, Any]) -> Path:
    """Write ``report.html`` into the directory of a study: one file that loads nothing from elsewhere.

    No text of a prompt or of a reply is in it.

    Args:
        directory: Of the study.
        tables: Its tables.
        config: Its configuration, as it is written in ``study.json``.
        environment: Where it was made: ``processor`` and ``platform`` are shown.

    Returns:
        The file.

    Raises:
        RunError: If it cannot be written.
    """
    sections, absent = sections_of(FIGURES, tables)
    claims = _claims(tables)
    headings, rows = headline_table(tables)
    page = render_page(
        "safety.html.jinja",
        name=directory.resolve().name,
        facts=_facts(tables, config, environment, claims),
        legend=LEGEND,
        headline=pd.DataFrame(rows, columns=list(headings)) if rows else None,
        headline_numbers=[name for name in headings if name not in CELL],
        warnings=_warnings(tables),
        sections=sections,
        absent=absent,
        claims=claims,
        terms=_terms(tables.terms),
        cells=_cells(tables.results),
        settings=[(name, _text(value)) for name, value in config.items() if value not in (None, [], ())],
    )
    report = directory / "report.html"
    with publish(report) as aside:
        aside.write_bytes(page.encode("utf-8", errors="replace"))
    return report


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _facts(
    tables: Tables, config: Mapping[str, Any], environment: Mapping[str, Any], claims: list[dict[str, Any]]
) -> list[tuple[str, str]]:
    results = tables.results
    models = results[results["cell"] != ""].drop_duplicates("cell") if len(results) else results
    verdicts = Counter(claim["verdict"] for claim in claims)
    complete = int((models["status"] == "complete").sum()) if len(models) else 0
    grid = (
        count(len(tables.threats), "threat"), count(len(tables.regimes), "optimizer"),
        count(len(tables.defenses), "defense"), count(results["seed"].nunique() if len(results) else 0, "seed"),
    )  # fmt: skip
    facts = [
        ("Policy", _text(config.get("policy", ""))),
        ("Tasks", _text(config.get("tasks", ""))),
        ("Grid", ", ".join(grid)),
        ("Models", f"{complete} of {len(models)} evaluated"),
        ("Judge of this page", tables.judge),
        ("Claims", ", ".join(f"{number} {verdict}" for verdict, number in verdicts.items())),
        ("Machine", ", ".join(str(environment[name]) for name in ("processor", "platform") if environment.get(name))),
    ]
    return [(label, value) for label, value in facts if value]


def _warnings(tables: Tables) -> list[str]:
    """What a reader has to know before trusting the numbers."""
    lines = []
    rows = tables.headline
    if len(rows):
        if rows["asr"].isna().all() and rows["guarded"].any():
            lines.append(
                f"The judge {tables.judge} cannot tell whether a reply answers: there is no attack success; the table "
                "of models has it by keywords"
            )
        if rows["seeds"].max() < 2:
            lines.append(
                "There is one seed: nothing here has an interval over seeds, and the spread over seeds is often wide"
            )
        if lost := int((~rows["guarded"].astype(bool) & (rows["seeds"] > 0)).sum()):
            lines.append(
                f"In {count(lost, 'cell')} of {len(rows)} no learning rate keeps the task; they have no attack success"
            )
    judged = tables.tuned
    if len(judged) and (failed := int(judged["failed"].sum())):
        replies = int(judged["n"].sum()) + failed
        lines.append(f"The judge {tables.judge} broke on {failed} of {replies} replies, which count in no share")
    return [*lines, *lost_lines(tables.results)]


def _claims(tables: Tables) -> list[dict[str, Any]]:
    found = []
    for claim in CLAIMS:
        statements = claim.statements(tables)
        headings, rows = statement_table(statements)
        found.append({
            "name": claim.name, "text": claim.text,
            "verdict": together(statements) if statements else "not measured",
            "statements": pd.DataFrame(rows, columns=list(headings)) if rows else None,
        })  # fmt: skip
    return found


def _terms(terms: pd.DataFrame) -> pd.DataFrame | None:
    """Means over models, as text."""
    if terms.empty:
        return None
    columns = {
        "cosine": "cosine", "relative_error": "relative error", "norm_ratio": "ratio of norms",
        "cos_norm_gradient": "cosine with gradient of norm",
    }  # fmt: skip
    kept = {name: label for name, label in columns.items() if name in terms}
    means = terms.groupby(["term", "size"], sort=False)[[*kept]].mean().reset_index()
    texts = {label: [f"{value:.4f}" for value in means[name]] for name, label in kept.items()}
    return pd.DataFrame({"term": means["term"], "size": [f"{size:g}" for size in means["size"]], **texts})


def _cells(results: pd.DataFrame) -> pd.DataFrame:
    def column(name: str) -> Any:
        return results[name] if name in results else pd.Series(dtype="object")

    def share(name: str) -> list[str]:
        return [number(value, 2) for value in column(name)]

    ends = zip(column("asr"), column("asr_low"), column("asr_high"), strict=True)
    return pd.DataFrame({
        "model": column("cell"), "stage": column("stage"), "judge": column("judge"), "n": column("n"),
        "ASR": [number(one, 2) + ("" if pd.isna(low) else f" [{low:.2f}, {high:.2f}]") for one, low, high in ends],
        "by keywords": share("keyword_asr"), "neither": share("neither_rate"), "over-refusal": share("over_refusal"),
        "kept": share("kept"), "utility": share("utility"), "consistency": share("refusal_consistency"),
        "its null": share("null_consistency"), "passes": [number(value, 0) for value in column("passes")],
        "status": column("status"), "reason": column("reason"),
    })  # fmt: skip
