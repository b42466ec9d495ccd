"""Mutants of everything on disk: each is read right, or refused in one line, and nothing else is touched."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from subspace_lab.runs import RunError
from subspace_lab.runs.tables import write_table
from tests.faults.outcomes import Outcome, outcomes
from tests.faults.subjects import SUBJECTS

pytestmark = pytest.mark.faults


@pytest.mark.parametrize(("subject", "least"), [("run", 70), ("comparison", 70), ("evidence", 36), ("cache", 40)])
def test_a_mutant_is_read_right_or_refused_in_one_line(subject: str, least: int, tmp_path: Path) -> None:
    found = [*outcomes(tmp_path, per_file=12, seed=0, files=6, subjects=(subject,))]
    assert not [outcome for outcome in found if not outcome.is_sound]
    assert len({outcome.mutant for outcome in found}) >= least
    kinds = Counter(outcome.kind for outcome in found)
    assert kinds["right"]
    assert kinds["refused"] > 10 or subject == "cache"  # which makes again what is damaged


def test_every_subject_is_tried() -> None:
    assert {*SUBJECTS} == {"run", "comparison", "evidence", "cache"}


@pytest.mark.parametrize(
    ("opener", "kind"),
    [
        (lambda path: {}["key"], "raw"),
        (lambda path: (_ for _ in ()).throw(ValueError("two\nlines")), "lines"),
        (lambda path: "another answer", "silent"),
    ],
)
def test_what_may_not_be_is_seen(opener, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness tells a traceback, a second line and another answer from a refusal."""
    from tests.faults import outcomes as harness

    (tmp_path / "file.json").write_text("{}")
    subject = harness.Subject(lambda path: None, {"read": opener}, frozenset({"read"}))
    arguments = (
        "name",
        tmp_path,
        subject,
        {"read": opener},
        {"read": ("right", "an answer")},
        Path("file.json"),
        "cut",
    )
    assert [outcome.kind for outcome in harness._opened(*arguments)] == [kind]
    assert not Outcome("name", "read", kind).is_sound


@pytest.mark.parametrize(
    ("name", "value"),
    [("loss", "n/a"), ("seconds", [0.1]), ("eval_loss", True), ("tokens", 2**70), ("tokens", 1.5), ("tokens", {})],
)
def test_metrics_of_a_cell_are_numbers(name: str, value: object, tmp_path: Path) -> None:
    SUBJECTS["comparison"].write(tmp_path / "sweep")
    (path,) = (tmp_path / "sweep" / "cells").glob("adamw_lr0.001_seed1-*/metrics.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[2][name] = value
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sweep" / "results.parquet").unlink()  # so that it is made of the directories
    with pytest.raises(RunError, match=rf"{path}, step 2: {name} is .* not a number; remove the line"):
        SUBJECTS["comparison"].openers["continue"](tmp_path / "sweep")


def test_a_comparison_without_rows_says_so(tmp_path: Path) -> None:
    SUBJECTS["comparison"].write(tmp_path / "sweep")
    path = tmp_path / "sweep" / "results.parquet"
    write_table(path, pd.read_parquet(path).iloc[:0])
    with pytest.raises(RunError, match="has no rows; run the same subspace-lab compare again"):
        SUBJECTS["comparison"].openers["open"](tmp_path / "sweep")
