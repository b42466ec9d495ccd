"""A whole study fits in one short file, and every executor serves it."""

from __future__ import annotations

import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from subspace_lab.experiments.claims import Verdict
from subspace_lab.experiments.executors import slurm, torchrun
from subspace_lab.experiments.executors.base import Executor
from subspace_lab.experiments.executors.choose import Kind, executor_of
from subspace_lab.experiments.executors.slurm import SlurmExecutor
from subspace_lab.experiments.store import Store
from tests.experiments import dummy_study, toy

TRIALS = 4 + 2 + 2  # two methods at two rates, and two more seeds of each at its best rate


def check(store: Store) -> None:
    results = store.results
    assert (results["status"] == "complete").all()
    assert len(results) == results["trial"].nunique() == TRIALS
    table = store.read("digits")
    assert table.groupby("method")["lr"].unique().map(list).to_dict() == {"descent": [0.1], "heavy ball": [0.1]}
    assert (table.groupby("method")["seed"].unique().map(sorted) == [[0, 1, 2]] * 2).all()
    assert (results["state_bytes"] == 16).all()
    for suffix in ("png", "pdf"):
        assert (store.path / f"digits.{suffix}").is_file()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Its outcome by processes that are forked from this one, the truth of the other executors."""
    return dummy_study.run(tmp_path_factory.mktemp("dummy") / "study", toy.Forked())


def test_its_whole_description_is_short() -> None:
    lines = Path(dummy_study.__file__).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120


def test_it_measures_draws_and_judges(here: Store) -> None:
    check(here)
    assert [one.verdict for one in dummy_study.CLAIM.statements(here)] == ["supported"]
    page = (here.path / "page.md").read_text()
    assert page.startswith("# Momentum\n\n<!-- claims: begin -->\nHeavy ball gains more digits")
    assert "in as many steps. *supported*\n\ndescent minus heavy ball: -" in page


@pytest.mark.parametrize(
    ("descent", "ball", "verdict"),
    [
        ([1.0, 2.0, 3.0], [2.0, 3.1, 4.2], "supported"),
        ([2.0, 3.1, 4.2], [1.0, 2.0, 3.0], "refuted"),
        ([1.0, 3.0, 2.0], [2.0, 1.0, 3.0], "inconclusive"),
        ([1.0], [2.0], "inconclusive"),
    ],
)
def test_the_claim_is_judged_in_both_directions(descent: list[float], ball: list[float], verdict: Verdict) -> None:
    rows = [("descent", seed, value) for seed, value in enumerate(descent)]
    rows += [("heavy ball", seed, value) for seed, value in enumerate(ball)]
    table = pd.DataFrame(rows, columns=["method", "seed", "eval_digits"]).assign(lr=0.1, status="complete")
    store: Any = SimpleNamespace(read=lambda _: table)
    assert [one.verdict for one in dummy_study.CLAIM.statements(store)] == [verdict]


def same_by(executor: Executor, here: Store, path: Path) -> None:
    store = dummy_study.run(path, executor)
    check(store)
    order = ["method", "seed", "lr"]
    tables = [one.results.sort_values(order)[[*order, "trial", "eval_digits"]] for one in (store, here)]
    pd.testing.assert_frame_equal(*(table.reset_index(drop=True) for table in tables), check_exact=True)
    assert (store.path / "page.md").read_text() == (here.path / "page.md").read_text()


def test_processes_of_the_server_import_the_recipe_that_the_study_names(here: Store, tmp_path: Path) -> None:
    same_by(executor_of(tmp_path / "study" / "trials", workers=2), here, tmp_path / "study")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "processes"), [("local", 2), ("slurm", 1), ("slurm", 2)])
def test_every_executor_serves_it(
    here: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, processes: int
) -> None:
    """By torchrun, by Slurm, whose jobs are processes of this machine here, and by torchrun in the jobs of Slurm."""
    if kind == "slurm":
        pytest.importorskip("submitit")
    monkeypatch.setattr(slurm, "SlurmExecutor", functools.partial(SlurmExecutor, cluster="local"))
    monkeypatch.setattr(slurm, "_PATIENCE_S", 0.05)
    monkeypatch.setattr(torchrun, "_PATIENCE_S", 0.05)
    options = {"time": 5} if kind == "slurm" else None
    path = tmp_path / "study"
    same_by(executor_of(path / "trials", kind, slurm=options, processes=processes), here, path)
