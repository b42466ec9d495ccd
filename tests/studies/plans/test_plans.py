"""The page on plans shows the file, and the file's intervals are those of its cells."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from subspace_lab.report.pages import fill
from subspace_lab.studies.plans.study import (
    COMMAND,
    MARK,
    PAGE,
    RANKS,
    RESULT,
    SETTINGS,
    main,
    methods,
    render,
    verdict,
)
from tests.docs.pages import ROOT


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / RESULT).read_text(encoding="utf-8"))
    return content


def test_the_page_shows_what_was_measured(
    result: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this fails, something was trained again: make pages"""
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    assert render(result) in page
    for path in (PAGE, RESULT):
        (tmp_path / path.parent).mkdir(parents=True)
        shutil.copy(ROOT / path, tmp_path / path)
    (tmp_path / PAGE).write_text(fill(page, MARK, ""), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    main()
    assert PAGE.read_bytes() == (ROOT / PAGE).read_bytes()
    assert result["command"].startswith(COMMAND)
    assert result["command"] in page
    assert list(result["settings"]) == list(SETTINGS) == list(RANKS)
    assert result["config"]["seed"] >= result["seeds"], "measured on a seed that no training of the check has"


def test_gaps_are_those_of_the_cells(result: dict[str, Any]) -> None:
    """At the rate of the lowest mean over the seeds that all rates have, paired by seed; by a test of scipy."""
    tuning = result["tuning_seeds"]
    for setting in result["settings"].values():
        losses: dict[str, dict[float, list[float]]] = {}
        for cell in setting["cells"]:
            loss = cell["eval_loss"] if cell["status"] == "complete" else np.inf
            losses.setdefault(cell["method"], {}).setdefault(cell["lr"], []).append(loss)
        best = {m: min(rates.values(), key=lambda losses: np.mean(losses[:tuning])) for m, rates in losses.items()}
        assert all(len(of_method) == result["seeds"] > tuning for of_method in best.values())
        assert all(len(of_rate) >= tuning for rates in losses.values() for of_rate in rates.values())
        assert set(setting["gaps"]) == set(best) - {"plan"} >= {"default"}
        for method, gap in setting["gaps"].items():
            test = stats.ttest_rel(best["plan"], best[method])
            interval = test.confidence_interval(0.95)
            wanted = np.mean(best["plan"]) - np.mean(best[method]), interval.low, interval.high
            assert (gap["gap"], gap["gap_low"], gap["gap_high"]) == pytest.approx(wanted, abs=1e-6)


def test_the_default_has_no_fewer_bytes(result: dict[str, Any]) -> None:
    for setting in result["settings"].values():
        states = {row["method"]: row["state_bytes"] for row in setting["methods"]}
        assert states["plan"] <= states["default"]
        planned = sum(layer["state_bytes"] for layer in setting["plan"]["layers"])
        assert setting["plan"]["budget_bytes"] is None or planned <= setting["plan"]["budget_bytes"]


def test_the_words_are_those_of_the_numbers(result: dict[str, Any]) -> None:
    """If this fails, write the list below the tables again."""
    free, tight = (result["settings"][name] for name in ("free", "tight"))
    pairs = ((free, "default"), (free, "usual"), (free, "adamw"), (tight, "default"), (tight, "less"))
    said = [verdict(setting["gaps"][method]) for setting, method in pairs]
    assert said == ["not distinguishable"] * 2 + ["the plan is better"] + ["the plan is worse"] * 2
    assert {layer["rank"] for layer in free["plan"]["layers"]} == {2} == {free["uniform_rank"]}
    assert [layer["rank"] for layer in tight["plan"]["layers"]].count(1) == 20
    best = {row["method"]: row["lr"] for row in free["methods"]}
    losses = {(c["method"], c["seed"]): c["eval_loss"] for c in free["cells"] if c["lr"] == best[c["method"]]}
    assert all(losses["plan", seed] < losses["default", seed] for seed in range(result["seeds"]))


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(-2.0, -1.0, "the plan is better"), (1.0, 2.0, "the plan is worse"), (-1.0, 2.0, "not distinguishable")],
)
def test_verdict(low: float, high: float, said: str) -> None:
    assert verdict({"gap": (low + high) / 2, "gap_low": low, "gap_high": high}) == said


def test_one_rank_less_is_compared_where_there_is_one() -> None:
    assert methods("tight", Path("plan.json"), 3)["less"] == {"optimizer": "grasswalk", "rank": 2}
    assert set(methods("tight", Path("plan.json"), 1)) == {"plan", "default"}
