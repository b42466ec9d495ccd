"""The report's section of a labelled task."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from subspace_lab.figures import TASK_FIGURES, AbsentError, task_metrics
from subspace_lab.report import write_report
from subspace_lab.report.task import task_rows
from subspace_lab.runs import Run
from tests.figures.synthetic import make_run, transformer
from tests.report.test_write import Page

METRICS = [
    {"name": "eval_loss", "better": "lower", "unit": "nats"},
    {"name": "eval_exact", "better": "higher", "unit": ""},
    {"name": "eval_unparsed", "better": "lower", "unit": ""},
]
VALUES = {49: (2.5, 0.125, 1.0), 99: (1.0, 0.75, 0.0), 149: (1.5, 0.5, 0.25)}


def run_of_task(path: Path, metrics: object = METRICS) -> Run:
    run = make_run(path, layers=transformer(1, {"q_proj": (8, 8)}), steps=(0, 150), config={"task": "file"},
                   evaluation={"metrics": metrics})  # fmt: skip
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("eval_loss", None)
        line |= dict(zip(("eval_loss", "eval_exact", "eval_unparsed"), VALUES.get(line["step"], ()), strict=False))
    (path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return Run.open(run.path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_of_task(tmp_path_factory.mktemp("task") / "run")


def test_rows_have_the_first_the_best_and_the_last(run: Run) -> None:
    found = [(row.name, row.first, row.best, row.last) for row in task_rows(run)]
    assert found == [
        ("loss ↓", "2.500 nats", "1.000 nats at step 99", "1.500 nats"),
        ("exact ↑", "0.125", "0.750 at step 99", "0.500"),
        ("unparsed ↓", "1.000", "0.000 at step 99", "0.250"),
    ]


def test_the_figure_has_the_metrics_but_for_the_loss(run: Run) -> None:
    (ax,) = task_metrics.draw(run).axes
    curves = {line.get_label(): dict(zip(*line.get_data(), strict=True)) for line in ax.lines}
    assert curves == {
        "exact ↑": {step: values[1] for step, values in VALUES.items()},
        "unparsed ↓": {step: values[2] for step, values in VALUES.items()},
    }


def test_section(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subspace_lab.report.sections.FIGURES", {})
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert ("a", {"href": "#task"}) in page.tags
    for text in ("The task", "exact ↑", "0.750 at step 99", task_metrics.CAPTION, "on held-out rows"):
        assert text in page.text
    assert sum(tag == "svg" for tag, _ in page.tags) == 2


@pytest.mark.parametrize("metrics", [None, [], "all", [3], [{"name": "eval_exact"}], [{"name": 1, "better": "lower"}],
                                     [{"name": "eval_exact", "better": ["lower"]}]])  # fmt: skip
def test_other_runs_have_none(metrics: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subspace_lab.report.sections.FIGURES", {})
    run = run_of_task(tmp_path / "run", metrics)
    assert task_rows(run) == []
    with pytest.raises(AbsentError):
        TASK_FIGURES["task_metrics"].draw(run)
    assert ("a", {"href": "#task"}) not in Page(write_report(run).read_text(encoding="utf-8")).tags
