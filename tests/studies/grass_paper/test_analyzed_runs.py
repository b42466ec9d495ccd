"""The numbers in papers.md are those of the committed JSON file, and the JSON file's are what the tables say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from subspace_lab.analysis import analyze
from subspace_lab.report.pages import fill
from subspace_lab.studies.grass_paper.analyzed_runs import COMMAND, MARK, PAGE, RESULT, main, measure, render, summarize
from tests.docs.pages import ROOT
from tests.runs_by_hand import write_run


def test_the_page_shows_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails, runs were measured again: make pages"""
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    result = json.loads((ROOT / RESULT).read_text(encoding="utf-8"))
    assert render(result) in page
    for path in (PAGE, RESULT):
        (tmp_path / path.parent).mkdir(parents=True)
        shutil.copy(ROOT / path, tmp_path / path)
    (tmp_path / PAGE).write_text(fill(page, MARK, ""), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    main([])
    assert PAGE.read_bytes() == (ROOT / PAGE).read_bytes()
    assert RESULT.read_bytes() == (ROOT / RESULT).read_bytes()
    assert result["command"].startswith(COMMAND)
    assert result["command"] in page
    assert len(result["runs"]) >= 3
    seeds = [run["config"].pop("seed") for run in result["runs"]]
    assert len(set(seeds)) == len(seeds)
    assert all(run["config"] == result["runs"][0]["config"] for run in result["runs"])


def test_measure(tmp_path: Path) -> None:
    """Diagonal gradients: energies by hand; they lose energy over the steps and gain it over the depth."""

    def gradients(step: int) -> dict[str, torch.Tensor]:
        tail = 0.2 + step / 100  # 0.2, ..., 0.7
        return {
            f"blocks.{depth}.up_proj.weight": torch.diag(torch.tensor([1.0, *[tail / (depth + 1)] * 7]))
            for depth in range(2)
        }

    run = write_run(tmp_path / "run", gradients)
    analyze(run, ranks=(2,), rank=2, lags=(1,))
    found = measure(run)["energy"]["2"]

    def ratio(step: int, depth: int) -> float:
        energy = (0.2 + step / 100) ** 2 / (depth + 1) ** 2
        return ((1 + energy) / (1 + 7 * energy)) ** 0.5

    early = [ratio(step, depth) for step in (0, 10) for depth in range(2)]
    late = [ratio(step, depth) for step in (40, 50) for depth in range(2)]
    deep = sum(ratio(step, 1) - ratio(step, 0) for step in range(0, 60, 10)) / 6
    assert found["training"] == pytest.approx((sum(late) - sum(early)) / 4, abs=1e-6)
    assert found["falling"] == 1
    assert found["depth"] == pytest.approx(deep, abs=1e-6)
    assert found["deeper_smaller"] == 0
    assert found["share"] == found["fixed"] ** 2 == pytest.approx(0.25)


def test_summarize() -> None:
    assert summarize([{"a": {"b": 1.0}}, {"a": {"b": 3.0}}]) == {"a": {"b": [2.0, pytest.approx(2**0.5)]}}
