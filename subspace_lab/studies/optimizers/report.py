"""``report.html`` of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from subspace_lab._text import count
from subspace_lab.experiments.present import legend, number, rows_of, verdicts
from subspace_lab.report.sections import sections_of
from subspace_lab.report.write import render_page
from subspace_lab.runs.files import publish
from subspace_lab.studies.optimizers.figures import FIGURES, Tables


def write_comparison_report(
    path: Path, settings: Mapping[str, Any], environment: Mapping[str, Any], tables: Tables
) -> Path:
    """Write ``report.html`` into the directory of a comparison: one file that loads nothing from elsewhere."""
    sections, absent = sections_of(FIGURES, tables)
    page = render_page(
        "comparison.html.jinja",
        name=path.resolve().name,
        facts=_facts(settings["config"], environment, tables),
        legend=[
            *legend(tables.table),
            "gap: mean difference to the first method, paired by seed, with its 95 % interval, adjusted by Holm",
        ],
        methods=rows_of(tables.table),
        verdicts=verdicts(tables.table, tables.results),
        sections=sections,
        absent=absent,
        cells=_cells(tables.results),
        settings=[(name, str(value)) for name, value in settings["config"].items() if value is not None],
    )
    report = path / "report.html"
    with publish(report) as aside:
        aside.write_bytes(page.encode("utf-8", errors="replace"))
    return report


def _facts(config: Mapping[str, Any], environment: Mapping[str, Any], tables: Tables) -> list[tuple[str, str]]:
    results = tables.results
    complete = int((results["status"] == "complete").sum())
    grid = (count(results["method"].nunique(), "method"), count(results["lr"].nunique(), "learning rate"))
    tokens = results["tokens"].max()
    return [
        ("Model", str(config["preset"] or config["model"])),
        ("Data", str(config["data"])),
        ("Grid", f"{', '.join(grid)}, {count(results['seed'].nunique(), 'seed')}"),
        ("Trials", f"{complete} of {len(results)} complete"),
        ("Training", count(config["steps"], "step") + ("" if pd.isna(tokens) else f", {tokens:,} tokens a trial")),
        ("Machine", ", ".join(str(environment[k]) for k in ("processor", "platform") if environment[k])),
    ]


def _cells(results: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({
        "cell": results["cell"],
        "held-out": [number(value, 4) for value in results["eval_loss"]],
        "train": [number(value, 4) for value in results["train_loss"]],
        "step [ms]": [number(value * 1e3, 1) for value in results["step_s"]],
        "refresh [%]": [number(value * 100, 1) for value in results["refresh_share"]],
        "state [MB]": [number(value / 1e6, 2) for value in results["state_bytes"]],
        "peak [MB]": [number(value / 1e6, 2) for value in results["peak_bytes"]],
        "status": results["status"],
        "reason": results["reason"],
    })  # fmt: skip
