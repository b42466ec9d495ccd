"""The page on plans shows the file, and the file's intervals are those of its cells."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from subspace_lab.analysis import LayerPlan, Plan
from subspace_lab.analysis.budget import state_bytes
from subspace_lab.report.pages import fill
from subspace_lab.studies.plans.study import COMMAND, MARK, PAGE, RESULT, ROWS, main, render, verdict
from subspace_lab.studies.plans.variants import allocated, by_energy, by_probes, one_thing, oriented_shapes, probe_plans
from tests.docs.pages import ROOT

SHAPES = {"a.up.weight": (16, 40), "a.q.weight": (16, 16), "b.q.weight": (16, 16)}
KINDS = {"a.up.weight": "up", "a.q.weight": "q", "b.q.weight": "q"}


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
    assert result["config"]["seed"] >= result["seeds"], "measured on a seed that no training of the check has"


def test_gaps_are_those_of_the_cells(result: dict[str, Any]) -> None:
    """Of the evaluation, which is at one setting of each method, paired by seed; by a test of scipy."""
    losses: dict[str, dict[int, float]] = {}
    settings: dict[str, set[tuple[float, float]]] = {}
    for cell in result["cells"]:
        if cell["phase"] == "evaluate":
            losses.setdefault(cell["method"], {})[cell["seed"]] = cell["eval_loss"]
            settings.setdefault(cell["method"], set()).add((cell["lr"], cell["lr_rest"]))
    assert {"plan", "default", "adamw"} <= set(losses) <= set(ROWS)
    assert all(len(found) == 1 for found in settings.values())
    assert all(sorted(of_method) == [*range(result["seeds"])] for of_method in losses.values())
    gaps = {(method, "default"): gap for method, gap in result["gaps"].items()}
    assert {method for method, _ in gaps} == set(losses) - {"default"}
    for (one, other), gap in {**gaps, ("plan", "adamw"): result["plan_minus_adamw"]}.items():
        mine, others = ([losses[name][seed] for seed in range(result["seeds"])] for name in (one, other))
        interval = stats.ttest_rel(mine, others).confidence_interval(0.95)
        wanted = np.mean(mine) - np.mean(others), interval.low, interval.high
        assert (gap["gap"], gap["gap_low"], gap["gap_high"]) == pytest.approx(wanted, abs=1e-6)


def test_settings_are_the_best_of_the_tuning(result: dict[str, Any]) -> None:
    for method in {cell["method"] for cell in result["cells"]}:
        cells = [cell for cell in result["cells"] if cell["method"] == method]
        tuned = {(c["lr"], c["lr_rest"]): c["eval_loss"] for c in cells if c["phase"] == "tune"}
        (evaluated,) = {(c["lr"], c["lr_rest"]) for c in cells if c["phase"] == "evaluate"}
        assert len(tuned) >= 3
        assert min(tuned, key=lambda setting: tuned[setting]) == evaluated
        assert {c["seed"] for c in cells if c["phase"] == "tune"} == set(result["tuning_seeds"])


def test_nothing_has_more_bytes_than_the_default_but_adamw(result: dict[str, Any]) -> None:
    states = {row["method"]: row["state_bytes"] for row in result["methods"]}
    assert all(states["default"] >= state for method, state in states.items() if method != "adamw")


def test_the_words_are_those_of_the_numbers(result: dict[str, Any]) -> None:
    """If this fails, write the list below the tables again."""
    said = {method: verdict(gap) for method, gap in result["gaps"].items()}
    assert {name for name, word in said.items() if word == "better"} == {"ranks of the plan", "refresh of the plan"}
    assert {name for name, word in said.items() if word == "worse"} == {"by probes"}
    rounded = {name: tuple(round(value, 3) for value in gap.values()) for name, gap in result["gaps"].items()}
    assert rounded["plan"] == rounded["plan, all recovered"] == (-0.006, -0.015, 0.002)
    assert rounded["ranks of the plan"] == (-0.007, -0.013, 0)
    assert rounded["refresh of the plan"] == (-0.002, -0.004, 0)
    assert {layer["recovery"] for layer in result["plan"]["layers"]} == {"scaled"}
    ranks = [layer["rank"] for layer in result["plan"]["layers"]]
    assert (min(ranks), max(ranks)) == (4, 17)
    states = {row["method"]: row["state_bytes"] for row in result["methods"]}
    others = states["plan"] - sum(layer["state_bytes"] for layer in result["plan"]["layers"])
    assert round((states["plan"] - others) / (states["default"] - others), 2) == 0.95


@pytest.mark.parametrize(
    ("low", "high", "said"), [(-2.0, -1.0, "better"), (1.0, 2.0, "worse"), (-1.0, 2.0, "not distinguishable")]
)
def test_verdict(low: float, high: float, said: str) -> None:
    assert verdict({"gap": (low + high) / 2, "gap_low": low, "gap_high": high}) == said


def planned(**settings: Any) -> Plan:
    """A plan of three layers with ranks 2, 4 and 8."""
    common = {
        "excess": 0.1, "fraction": 0.9, "null_noise": 0.1, "update_interval": 20, "retained": 0.6, "bound": "",
        "rank_bound": "", "above_noise": True, "rule": "walk", "walk_step": 0.3, "recovery": "none", "bulk": 0.1,
        "bulk_signal": None,
    }  # fmt: skip
    ranks = zip(SHAPES, (2, 4, 8), strict=True)
    layers = [
        LayerPlan(layer, rank, **{**common, **settings}, state_bytes=state_bytes(*SHAPES[layer], rank))
        for layer, rank in ranks
    ]
    return Plan(tuple(layers), 5)


def test_one_thing_is_changed_at_a_time() -> None:
    names = ("rank", "rule", "update_interval", "walk_step", "recovery")
    found = {
        name: {tuple(getattr(layer, each) for each in names) for layer in plan.layers}
        for name, plan in one_thing(planned(), 5, SHAPES).items()
    }
    assert found["ranks of the plan"] == {(rank, "walk", 200, 0.1, "scaled") for rank in (2, 4, 8)}
    assert found["refresh of the plan"] == {(5, "walk", 20, 0.3, "scaled")}
    assert found["recovery of the plan"] == {(5, "walk", 200, 0.1, "none")}
    assert found["plan, all recovered"] == {(rank, "walk", 20, 0.3, "scaled") for rank in (2, 4, 8)}
    assert one_thing(planned(), 5, SHAPES)["ranks of the plan"].state_bytes == planned().state_bytes


def test_ranks_go_where_they_gain_and_take_no_more_bytes() -> None:
    """Own energy that only the first layer gains with its rank."""
    rows = [
        {"layer": layer, "basis": "own", "rank": rank, "m": m, "n": n,
         "fraction": 0.2 + 0.02 * rank * (layer == "a.up.weight")}
        for layer, (m, n) in SHAPES.items() for rank in (1, 2, 4, 8)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    assert oriented_shapes(table) == SHAPES
    plan = allocated(planned(), by_energy(table, SHAPES), 5, SHAPES)
    assert [layer.rank for layer in plan.layers] == [8, 1, 1]
    assert plan.state_bytes <= sum(state_bytes(m, n, 5) for m, n in SHAPES.values())


def test_probes_change_one_kind_and_their_losses_give_ranks() -> None:
    plans = probe_plans(planned(), 4, SHAPES, KINDS)
    ranks = {name: [layer.rank for layer in plan.layers] for name, plan in plans.items()}
    assert ranks == {
        "probe": [4, 4, 4], "probe up half": [2, 4, 4], "probe up double": [8, 4, 4], "probe q half": [4, 2, 2],
        "probe q double": [4, 8, 8],
    }  # fmt: skip
    losses = {"probe": 5.0, "probe up half": 5.0, "probe up double": 5.0, "probe q half": 5.4, "probe q double": 4.8}
    choices = by_probes(losses, 4, SHAPES, KINDS)
    gains = {choice.rank: choice.gain for choice in choices["a.q.weight"]}
    assert gains == pytest.approx({2: -0.2, 3: -0.1, 4: 0, 5: 0.025, 6: 0.05, 7: 0.075, 8: 0.1})
    assert next(layer.rank for layer in allocated(planned(), choices, 4, SHAPES).layers) == 2
