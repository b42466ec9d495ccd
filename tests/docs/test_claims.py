"""The numbers in papers.md are those of the JSON file beside it, and the JSON file's are what the tables say."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.docs.pages import ROOT, script
from tests.runs_by_hand import write_run


@pytest.fixture(scope="module")
def claims() -> ModuleType:
    return script("claims")


def test_the_page_shows_what_was_measured(claims: ModuleType) -> None:
    page = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    result = json.loads(claims.RESULT.read_text(encoding="utf-8"))
    assert claims.render(result) in page
    assert len(result["runs"]) >= 3
    seeds = [run["config"].pop("seed") for run in result["runs"]]
    assert len(set(seeds)) == len(seeds)
    assert all(run["config"] == result["runs"][0]["config"] for run in result["runs"])


def test_measure(claims: ModuleType, tmp_path: Path) -> None:
    """Diagonal gradients: energies by hand; they lose energy over the steps and gain it over the depth."""

    def gradients(step: int) -> dict[str, torch.Tensor]:
        tail = 0.2 + step / 100  # 0.2, ..., 0.7
        return {
            f"blocks.{depth}.up_proj.weight": torch.diag(torch.tensor([1.0, *[tail / (depth + 1)] * 7]))
            for depth in range(2)
        }

    run = write_run(tmp_path / "run", gradients)
    from subspace_lab.analysis import analyze

    analyze(run, ranks=(2,), rank=2, lags=(1,))
    found = claims.measure(run)["energy"]["2"]

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


def test_summarize(claims: ModuleType) -> None:
    assert claims.summarize([{"a": {"b": 1.0}}, {"a": {"b": 3.0}}]) == {"a": {"b": [2.0, pytest.approx(2**0.5)]}}
    assert claims.fill(f"x\n{claims.BEGIN}old\n{claims.END}y\n", "new\n") == f"x\n{claims.BEGIN}new\n{claims.END}y\n"
