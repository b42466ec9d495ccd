"""A whole study of a toy: enumerated, run, interrupted, continued, measured and drawn."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

from subspace_lab.experiments.grid import Grid, Lookup, Setting, Wanted
from subspace_lab.experiments.outcome import read_outcome, write_outcome
from subspace_lab.experiments.phases import Evaluate
from subspace_lab.experiments.statistics import summary
from subspace_lab.experiments.store import Kind, Store
from subspace_lab.experiments.study import Quantity, Study, StudyInterrupted, conduct, outlook
from subspace_lab.experiments.trial import Trial
from subspace_lab.runs import RunError
from subspace_lab.training.tasks.base import Metric
from tests.experiments import toy

METRIC = Metric("eval_total", "higher", "")
KIND = Kind("toy", "toy.json", "trials", "a toy", METRIC, {"method": "str", "lr": "float64", "phase": "str",
            "seed": "int64"}, columns={"state_bytes_formula": "Int64"})  # fmt: skip
BESTS = {"low": 0.3, "high": 0.2}  # learning rates


def make(method: str, setting: Setting, seed: int, phase: str) -> Trial:
    value = round({"low": 10, "high": 20}[method] - 10 * abs(float(setting["lr"] or 0) - BESTS[method])) + seed
    factors = {"method": method, **setting, "phase": phase, "seed": seed}
    return Trial(factors, "tests.experiments.toy:add", {"value": value, "of": [method, setting["lr"], seed]})


GRID = Grid([*BESTS], [{"lr": lr} for lr in (0.1, 0.2, 0.3)], range(2), make, "tune", METRIC)


def measured(store: Store) -> pd.DataFrame:
    rows = store.results[store.results["status"] == "complete"]
    return rows.groupby(["method", "lr"], as_index=False)["eval_total"].mean()


def picture() -> ModuleType:
    module = ModuleType("totals")
    module.draw = draw  # type: ignore[attr-defined]
    return module


def draw(table: pd.DataFrame, layout: Any = None) -> Figure:
    figure = Figure()
    figure.subplots().plot(table["lr"], table["eval_total"])
    return figure


def finish(store: Store) -> None:
    rows = measured(store)
    (store.path / "page.md").write_text("".join(f"{method}: {total:g}\n" for method, _, total in rows.to_numpy()))


def toy_study(data: str = "data") -> Study:
    evaluation = Evaluate(GRID, {"low": range(3), "high": range(4)}, make)
    totals = Quantity("totals", (GRID, evaluation), measured, {"method": "str", "lr": "float64"}, {"totals": picture()})
    return Study({"totals": totals}, data_hash=lambda: data, finish=finish, plugins=("tests.experiments.toy",))


class Counting(toy.Forked):
    """Counts what it runs; presses Ctrl-C before the trial of a number."""

    def __init__(self, interrupt: int | None = None) -> None:
        self.ran: list[str] = []
        self._left = interrupt

    def run(self, trials: Any, watch: Any) -> None:
        for request in trials:
            if len(self.ran) == self._left:
                raise KeyboardInterrupt
            self.ran.append(request.name)
            super().run([request], watch)


def family(*, base_first: bool = True, children: bool = True) -> Study:
    """A base, and in a quantity of its own what begins from it."""
    plugin = "tests.experiments.toy"

    def base(method: str, setting: Setting, seed: int, phase: str) -> Trial:
        config = {"value": 100}
        return Trial({"method": method, **setting, "phase": phase, "seed": seed}, f"{plugin}:add", config)

    parent = Grid(["base"], [{"lr": 0.1}], [0], base)

    def child(method: str, setting: Setting, seed: int, phase: str) -> Trial:
        return dataclasses.replace(make(method, setting, seed, phase), parents=(parent.trials()[0].hash,))

    young = Quantity("children", (Grid(["low"], [{"lr": 0.1}, {"lr": 0.3}], [0], child),))
    quantities = {"base": Quantity("base", (parent,)), **({"children": young} if children else {})}
    return Study(quantities if base_first else dict(reversed(quantities.items())), plugins=(plugin,))


@pytest.mark.parametrize("base_first", [True, False])
def test_trials_begin_from_those_of_other_quantities_and_of_earlier_calls(tmp_path: Path, base_first: bool) -> None:
    study, store = family(base_first=base_first), begin(tmp_path / "toy")
    with pytest.raises(StudyInterrupted):
        conduct(study, store, Counting(1))
    assert store.results["status"].value_counts().to_dict() == {"pending": 2, "complete": 1}
    conduct(study, begin(store.path), Counting())
    found = begin(store.path).results.set_index(["method", "lr"])["eval_total"].to_dict()
    assert found == {("base", 0.1): 100.0, ("low", 0.1): 108.0, ("low", 0.3): 110.0}
    again = Counting()
    conduct(study, begin(store.path), again)
    assert again.ran == []


@pytest.mark.parametrize("names", [None, ["totals"]])
def test_tables_that_share_trials_are_made_again_whichever_quantity_runs_them(
    tmp_path: Path, names: list[str] | None
) -> None:
    totals = toy_study().quantities["totals"]
    study = Study({"totals": totals, "same": totals}, plugins=("tests.experiments.toy",))
    store = begin(tmp_path / "toy")
    with pytest.raises(StudyInterrupted):
        conduct(study, store, Counting(3))
    assert len(store.read("same")) == 3
    conduct(study, store := begin(store.path), Counting(), names=names)
    pd.testing.assert_frame_equal(store.read("same"), measured(store))
    before = (store.path / "tables" / "same.parquet").stat().st_mtime_ns
    conduct(study, begin(store.path), Counting(), names=names)
    assert (store.path / "tables" / "same.parquet").stat().st_mtime_ns == before


class FromTheBest:
    """Begins from the evaluation of the best setting, once tuning has found it, with a seed that tuned nothing."""

    def wanted(self, rows_of: Lookup) -> list[Wanted]:
        setting = GRID.best("low", rows_of)
        if setting is None:
            return [Wanted(make("low", {"lr": None}, 9, "evaluate"), is_known=False)]
        parent, child = (make("low", one, 2, "evaluate") for one in (setting, {"lr": 0.7}))
        return [Wanted(dataclasses.replace(child, parents=(parent.hash,)))]


def test_what_begins_from_the_best_of_another_quantity_finds_its_weights(tmp_path: Path) -> None:
    """It becomes known while that quantity is run, before the trial that it begins from."""
    totals = toy_study().quantities["totals"]
    quantities = {"totals": totals, "children": Quantity("children", (FromTheBest(),))}
    study, store = Study(quantities, plugins=("tests.experiments.toy",)), begin(tmp_path / "toy")
    conduct(study, store, executor := Counting())
    assert len(executor.ran) == len(set(executor.ran)) == len(store.results)
    assert set(store.results["status"]) == {"complete"}


def test_a_base_whose_weights_are_not_there_runs_again_for_what_begins_from_it(tmp_path: Path) -> None:
    """They were not kept while nothing began from them, or were removed with its directory."""
    store = begin(tmp_path / "toy")
    conduct(family(children=False), store, Counting())
    conduct(family(), store, executor := Counting())
    base, *children = store.results["cell"]
    assert executor.ran == [base, *children]
    assert store.results["eval_total"].tolist() == [100, 108, 110]
    shutil.rmtree(store.trials_dir / base)
    conduct(family(), store, unneeded := Counting())
    assert unneeded.ran == [], "nothing is to begin from it"
    store.forget(family().quantities["children"].phases[0].trials())  # type: ignore[attr-defined]
    conduct(family(), store, executor := Counting())
    assert executor.ran == [base, *children]


def test_other_weights_of_a_base_run_again_what_began_from_it(tmp_path: Path) -> None:
    study, store = family(), begin(tmp_path / "toy")
    conduct(study, store, Counting())
    base, *children = store.results["cell"]
    outcome = read_outcome(store.trials_dir, base)
    write_outcome(store.trials_dir, base, dataclasses.replace(outcome, weights="0" * 64))
    conduct(study, store, executor := Counting())
    assert executor.ran[: len(children)] == children


def begin(path: Path) -> Store:
    return Store.begin(path, KIND, {"methods": sorted(BESTS)})


def test_it_runs_from_beginning_to_end_and_no_trial_twice(tmp_path: Path) -> None:
    """What is counted before anything ran is what is run: 12 to tune, and 1 and 2 seeds more at the best rates."""
    study, store, executor = toy_study(), begin(tmp_path / "toy"), Counting()
    wanted = study.wanted(None, ["totals"])
    assert (sum(one.is_known for one in wanted), sum(not one.is_known for one in wanted)) == (12, 3)
    assert outlook(study, store, ["totals"]).left == 15
    conduct(study, store, executor)
    assert len(executor.ran) == len(set(executor.ran)) == len(store.results) == 12 + 1 + 2
    assert {one.trial.name for one in study.wanted(store, ["totals"])} == set(executor.ran)
    assert (store.results["status"] == "complete").all()
    evaluated = store.results[store.results["seed"] >= 2]
    assert evaluated.groupby("method")["lr"].unique().map(list).to_dict() == {"high": [0.2], "low": [0.3]}
    table = summary(store.results, METRIC).set_index("method")
    assert table["lr"].to_dict() == {"high": 0.2, "low": 0.3}
    assert table.loc["high", "eval_total"] == 20 + (0 + 1 + 2 + 3) / 4
    assert table.loc["low", "gap"] == -10.0
    assert (store.path / "totals.png").is_file()
    assert (store.path / "page.md").read_text().splitlines()[1] == "high: 21.5"
    again = Counting()
    conduct(study, Store.open(store.path, KIND), again)
    assert again.ran == []
    assert outlook(study, store, ["totals"]).left == 0


@pytest.mark.parametrize("number", [0, 5, 12, 14])
def test_interrupted_anywhere_the_same_call_goes_on(tmp_path: Path, number: int) -> None:
    whole, store = begin(tmp_path / "whole"), begin(tmp_path / "toy")
    conduct(toy_study(), whole, Counting())
    executor = Counting(number)
    with pytest.raises(StudyInterrupted, match=f"interrupted; the same command goes on with {store.path}"):
        conduct(toy_study(), store, executor)
    assert len(executor.ran) == number == (store.results["status"] == "complete").sum()
    assert (store.path / "page.md").exists()
    assert outlook(toy_study(), store, ["totals"]).there == number
    again = Counting()
    conduct(toy_study(), begin(store.path), again)
    assert len(again.ran) == 15 - number
    assert not set(again.ran) & set(executor.ran)
    left, right = (Store.open(path, KIND) for path in (store.path, whole.path))
    for name in ("results", "totals"):
        order = ["method", "lr"] + ["seed"] * (name == "results")
        tables = [one.read(name).sort_values(order, ignore_index=True) for one in (left, right)]
        pd.testing.assert_frame_equal(
            *(one.drop(columns=["peak_bytes", "base_bytes"], errors="ignore") for one in tables)
        )
    assert (store.path / "page.md").read_text() == (whole.path / "page.md").read_text()


def test_directories_may_be_removed_and_tables_are_made_again(tmp_path: Path) -> None:
    store = begin(tmp_path / "toy")
    conduct(toy_study(), store, Counting())
    before = store.read("totals")
    store.remove("totals")
    for path in sorted(store.trials_dir.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (store.path / "totals.png").unlink()
    again, executor = Store.open(store.path, KIND), Counting()
    conduct(toy_study(), again, executor)
    assert executor.ran == []
    pd.testing.assert_frame_equal(again.read("totals"), before)
    assert (store.path / "totals.png").is_file()


def test_forgotten_on_demand_everything_is_run_again(tmp_path: Path) -> None:
    store, executor = begin(tmp_path / "toy"), Counting()
    conduct(toy_study(), store, Counting())
    conduct(toy_study(), store, executor, recompute=True)
    assert len(executor.ran) == 15
    assert (store.results["attempts"] == 1).all()


def test_other_data_are_refused_before_anything_is_run(tmp_path: Path) -> None:
    store, executor = begin(tmp_path / "toy"), Counting()
    store.data_hash(lambda: "data")
    with pytest.raises(RunError, match="rests on other data"):
        conduct(toy_study("other"), store, executor)
    assert executor.ran == []
