"""The directory of a study: what is enrolled, taken into the tables, shared, forgotten and refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from subspace_lab.experiments.outcome import Outcome, write_outcome
from subspace_lab.experiments.store import Kind, Store
from subspace_lab.experiments.trial import Plain, Trial
from subspace_lab.runs import RunError
from subspace_lab.training.tasks.base import Metric

FACTORS = {"method": "str", "lr": "float64", "warmup": "float64", "phase": "str", "seed": "int64"}
TOY = Kind("toy", "toy.json", "trials", "a toy", metric=Metric("eval_total", "higher"), factors=FACTORS,
           columns={"double": "Int64"}, describe=lambda trial: {"double": 2 * trial.config["value"]},
           grows="methods")  # fmt: skip
SETTINGS = {"config": {"steps": 3}, "methods": {"a": {"value": 1}}}


def trial(value: int = 1, seed: int = 0, method: str = "a", **factors: Plain) -> Trial:
    about = {"method": method, "lr": 0.1, "phase": "tune", "seed": seed, **factors}
    return Trial(about, "tests.experiments.toy:add", {"value": value, "seed": seed}, label=f"{method} {value} {seed}")


def ran(
    store: Store, one: Trial, status: Any = "complete", attempts: int = 1, losses: tuple[float, ...] = (3.0, 2.0)
) -> None:
    """What a trial leaves behind."""
    directory = store.trials_dir / store.cell_of(one)
    directory.mkdir(parents=True, exist_ok=True)
    rows = [{"step": n, "loss": loss, "eval_total": 10 * loss, "tokens": 8, "seconds": 0.5, "refresh_seconds": 0.25}
            for n, loss in enumerate(losses)]  # fmt: skip
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_outcome(store.trials_dir, directory.name, Outcome(status, "why", attempts=attempts, state_bytes=7))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.begin(tmp_path / "toy", TOY, SETTINGS)


def reopened(store: Store) -> Store:
    return Store.open(store.path, TOY)


def test_what_is_enrolled_is_pending_and_enrolled_once(store: Store) -> None:
    trials = [trial(1), trial(2), trial(1, seed=1)]
    store.enroll(trials)
    before = store.results
    assert before["trial"].tolist() == [one.hash for one in trials]
    assert before["cell"].tolist() == [one.name for one in trials]
    rows = before[["method", "lr", "seed", "double", "status", "attempts", "steps_done", "format"]].to_numpy().tolist()
    assert rows == [["a", 0.1, seed, double, "pending", 0, 0, 2] for seed, double in ((0, 2), (0, 4), (1, 2))]
    assert before["warmup"].isna().all(), "a factor that these trials do not have"
    for again in (store, reopened(store)):
        again.enroll(trials)
        pd.testing.assert_frame_equal(again.results, before)
        assert again.missing(trials) == trials
        assert len(again.rows_of([trial(9), *trials, trials[0]])) == 3
    again.enroll([one.with_factors(phase="evaluate") for one in trials[:1]])  # the same trial serves another phase
    pd.testing.assert_frame_equal(again.results, before.assign(phase=["evaluate", "tune", "tune"]))
    again.enroll(trials)
    assert again.results["phase"].tolist() == ["evaluate", "tune", "tune"]


def test_columns_are_the_declared_ones(store: Store) -> None:
    store.enroll([trial()])
    ran(store, trial())
    store.refresh()
    assert dict(store.results.dtypes.astype(str)) == TOY.schemas["results"]
    for name, table in (("results", store.results), ("curves", store.curves)):
        assert [*table] == [*TOY.schemas[name]]
        pd.testing.assert_frame_equal(pd.read_parquet(store.path / f"{name}.parquet"), table)


def test_what_trials_left_is_taken_into_the_tables(store: Store) -> None:
    trials = [trial(value) for value in range(1, 5)]
    store.enroll(trials)
    ran(store, trials[0])
    ran(store, trials[1], "diverged", losses=(9.0,))
    ran(store, trials[2], "cut", attempts=2)
    store.refresh()
    rows = store.results.set_index("cell").loc[[one.name for one in trials]]
    assert rows["status"].tolist() == ["complete", "diverged", "cut", "pending"]
    assert rows["attempts"].tolist() == [1, 1, 2, 0]
    assert rows["steps_done"].tolist() == [2, 1, 2, 0]
    assert rows["tokens"].tolist()[:3] == [16, 8, 16]
    assert rows["wall_s"].tolist()[:3] == [1.0, 0.5, 1.0]
    assert rows["refresh_share"].tolist()[:3] == [0.5] * 3
    assert rows["train_loss"].dropna().tolist() == [2.0], "of a complete trial alone: the last of two steps"
    assert rows["eval_total"].dropna().tolist() == [20.0]
    curves = store.curves
    assert curves.groupby("cell", sort=False).size().tolist() == [2, 1, 2]
    first = curves[curves["cell"] == trials[0].name]
    assert first[["method", "lr", "seed", "step", "wall_s", "loss", "eval_total"]].to_numpy().tolist() == [
        ["a", 0.1, 0, 0, 0.5, 3, 30], ["a", 0.1, 0, 1, 1.0, 2, 20],
    ]  # fmt: skip
    assert store.missing(trials) == [trials[2], trials[3]]
    assert store.missing(trials, retry=("diverged",)) == trials[1:]


def test_what_else_was_evaluated_is_in_the_table_where_a_trial_measured_it(tmp_path: Path) -> None:
    kind = dataclasses.replace(TOY, also=(Metric("eval_exact", "higher", ""), Metric("eval_f1", "higher", "")))
    store = Store.begin(tmp_path / "toy", kind, SETTINGS)
    trials = [trial(1), trial(2), trial(3)]
    store.enroll(trials)
    for one, status in zip(trials, ("complete", "complete", "cut"), strict=True):
        ran(store, one, status)
        metrics = {} if one is trials[1] else {"eval_exact": 0.25}
        write_outcome(store.trials_dir, one.name, Outcome(status, "why", attempts=1, metrics=metrics))
    store.refresh()
    assert store.results["eval_exact"].fillna(-1).tolist() == [0.25, -1, -1]
    assert store.results["eval_f1"].isna().all()
    assert dict(store.results.dtypes.astype(str)) == kind.schemas["results"]
    assert not {"eval_exact", "eval_f1"} & {*store.curves}


def test_nothing_is_left_of_an_earlier_attempt(store: Store) -> None:
    store.enroll([trial()])
    ran(store, trial())
    store.refresh()
    shutil.rmtree(store.trials_dir / trial().name)
    write_outcome(store.trials_dir, trial().name, Outcome("failed", "why", attempts=2))
    store.refresh()
    (row,) = store.results.to_dict("records")
    assert (row["status"], row["attempts"], row["steps_done"]) == ("failed", 2, 0)
    assert store.results[["train_loss", "eval_total", "wall_s", "tokens", "state_bytes"]].isna().all(axis=None)


def test_further_tables_are_taken_before_a_row_says_complete(store: Store) -> None:
    """Killed in between, everything is taken again."""
    store.enroll([trial(1), trial(2)])
    ran(store, trial(1))
    seen: list[list[str]] = []

    def absorb(rows: pd.DataFrame) -> None:
        seen.append(rows["cell"].tolist())
        assert rows["status"].tolist() == ["complete"]
        published = reopened(store).results.set_index("cell")["status"]
        assert (published[rows["cell"]] == "pending").all()
        store.add("captured", rows[["cell"]].assign(value=1))

    store.refresh(absorb)
    store.refresh(absorb)
    assert seen == [[trial(1).name]]
    assert reopened(store).read("captured")["cell"].tolist() == [trial(1).name]
    ran(store, trial(2))
    store.refresh(absorb)
    assert seen == [[trial(1).name], [trial(2).name]] == [[cell] for cell in store.read("captured")["cell"]]


@pytest.mark.parametrize("name", ["curves", "results"])
def test_killed_between_curves_and_results_it_is_taken_again(
    store: Store, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.enroll([trial()])
    ran(store, trial())
    real: Callable[..., None] = Store.write

    def write(self: Store, table: str, rows: pd.DataFrame) -> None:
        if table == name:
            raise KeyboardInterrupt
        real(self, table, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", write)
        with pytest.raises(KeyboardInterrupt):
            store.refresh()
    again = reopened(store)
    assert again.results["status"].tolist() == ["pending"]
    again.refresh()
    assert again.results["status"].tolist() == ["complete"]
    assert again.curves["loss"].tolist() == [3, 2]


def test_two_trials_of_one_content_are_one_that_runs_once(store: Store) -> None:
    one, two = trial(method="one"), trial(method="two")
    assert one.hash == two.hash
    store.enroll([one, two])
    assert store.results["method"].tolist() == ["one", "two"]
    assert store.results["cell"].tolist() == [one.name] * 2
    assert store.missing([one, two]) in ([one], [two])
    assert store.cell_of(two) == one.name
    ran(store, one)
    store.refresh()
    assert store.results["status"].tolist() == ["complete"] * 2
    assert store.missing([one, two]) == []
    assert store.curves[["method", "loss"]].to_numpy().tolist() == [["one", 3], ["one", 2], ["two", 3], ["two", 2]]


@pytest.mark.parametrize("removed", [False, True])
def test_a_second_name_of_a_complete_trial_is_complete_whether_or_not_its_directory_is_there(
    store: Store, *, removed: bool
) -> None:
    one, two = trial(method="one"), trial(method="two")
    store.enroll([one])
    ran(store, one)
    store.refresh()
    if removed:
        shutil.rmtree(store.trials_dir)
    store = reopened(store)
    store.enroll([one, two])
    assert store.results[["method", "status", "eval_total"]].to_numpy().tolist() == [
        ["one", "complete", 20.0], ["two", "complete", 20.0],
    ]  # fmt: skip
    assert store.missing([one, two]) == []
    assert store.curves[["method", "loss"]].to_numpy().tolist() == [["one", 3], ["one", 2], ["two", 3], ["two", 2]]


def test_rows_stay_when_directories_are_removed(store: Store) -> None:
    store.enroll([trial(1), trial(2)])
    ran(store, trial(1))
    store.refresh()
    before = store.results, store.curves
    shutil.rmtree(store.trials_dir)
    again = reopened(store)
    again.refresh()
    again.enroll([trial(1), trial(2)])
    pd.testing.assert_frame_equal(again.results, before[0])
    pd.testing.assert_frame_equal(again.curves, before[1])
    assert again.missing([trial(1), trial(2)]) == [trial(2)]


def test_what_is_forgotten_is_gone_from_every_table_and_from_the_directory(store: Store) -> None:
    store.enroll([trial(1), trial(2)])
    for one in (trial(1), trial(2)):
        ran(store, one)
    store.refresh(lambda rows: store.add("captured", rows[["cell"]]))
    store.write("figure", pd.DataFrame({"mean": [1.0]}))
    store.forget([trial(1), trial(9)])
    for again in (store, reopened(store)):
        for name in ("results", "curves", "captured"):
            assert set(again.read(name)["cell"]) == {trial(2).name}, name
        assert again.read("figure")["mean"].tolist() == [1.0]
    assert {path.name for path in store.trials_dir.iterdir()} == {trial(2).name, f"{trial(2).name}.json"}
    store.enroll([trial(1)])
    assert store.missing([trial(1), trial(2)]) == [trial(1)]


def test_a_result_table_that_was_removed_is_made_again_of_the_directories(store: Store) -> None:
    """What a study takes from the directories of complete trials is taken again, too."""
    store.enroll([trial()])
    ran(store, trial())
    store.refresh()
    before = store.results, store.curves
    for name in ("results", "curves"):
        (store.path / f"{name}.parquet").unlink()
    again = reopened(store)
    assert again.results.empty
    assert not again.has("results")
    again.enroll([trial()])
    absorbed: list[str] = []
    again.refresh(lambda rows: absorbed.extend(rows["cell"]))
    assert absorbed == [trial().name]
    pd.testing.assert_frame_equal(again.results, before[0])
    pd.testing.assert_frame_equal(again.curves, before[1])


def test_curves_that_were_removed_are_made_again_of_the_directories_or_of_new_trials(store: Store) -> None:
    trials = [trial(1), trial(2)]
    store.enroll(trials)
    for one in trials:
        ran(store, one)
    store.refresh()
    before = store.curves
    shutil.rmtree(store.trials_dir / trials[1].name)
    (store.path / "curves.parquet").unlink()
    again = reopened(store)
    again.refresh()
    assert again.curves["cell"].unique().tolist() == [trials[0].name]
    assert again.missing(trials) == [trials[1]]
    ran(again, trials[1])
    again.refresh()
    pd.testing.assert_frame_equal(again.curves, before)
    assert again.missing(trials) == []


def test_a_trial_that_ended_the_same_way_in_an_empty_directory_has_its_new_curve(store: Store) -> None:
    """As where all directories were removed: both are the first attempt."""
    for status in ("diverged", "killed"):
        store.enroll([trial()])
        ran(store, trial(), status, losses=(3.0, 2.0))
        store.refresh()
        ran(store, trial(), status, losses=(5.0,))
        store.refresh()
        assert (store.results["steps_done"].tolist(), store.curves["loss"].tolist()) == ([1], [5.0])
        store.forget([trial()])
    store.enroll([trial()])
    write_outcome(store.trials_dir, trial().name, Outcome("failed", "one", attempts=1))
    store.refresh()
    write_outcome(store.trials_dir, trial().name, Outcome("failed", "another", attempts=1))
    store.refresh()
    assert store.results["reason"].tolist() == ["another"]


def test_an_outcome_without_its_directory_is_not_that_of_a_complete_trial(store: Store) -> None:
    """Where the result table was lost too, there is no curve to take; where it was not, the row stays."""
    store.enroll([trial()])
    ran(store, trial())
    store.refresh()
    shutil.rmtree(store.trials_dir / trial().name)
    store.refresh()
    assert store.missing([trial()]) == []
    store.remove("results")
    store.enroll([trial()])
    store.refresh()
    assert store.results["status"].tolist() == ["pending"]
    assert store.missing([trial()]) == [trial()]


def test_a_study_of_other_settings_is_refused_by_name(store: Store) -> None:
    with pytest.raises(RunError, match=r"holds another toy \(steps 3 -> 4\); choose another directory"):
        Store.begin(store.path, TOY, {**SETTINGS, "config": {"steps": 4}})
    with pytest.raises(RunError, match=r"holds another toy \(method a \{'value': 1\} -> \{'value': 2\}\)"):
        Store.begin(store.path, TOY, {**SETTINGS, "methods": {"a": {"value": 2}}})
    grown = Store.begin(store.path, TOY, {**SETTINGS, "methods": {"b": {"value": 2}}})
    assert grown.settings["methods"] == {"a": {"value": 1}, "b": {"value": 2}} == reopened(store).settings["methods"]
    file = store.path / "toy.json"
    before = file.stat().st_mtime_ns
    Store.begin(store.path, TOY, SETTINGS)
    assert file.stat().st_mtime_ns == before, "what has not changed is not written"


def test_other_data_are_refused(store: Store) -> None:
    store.check_data("a" * 64)
    assert store.data_hash(lambda: "a" * 64) == "a" * 64
    again = reopened(store)
    assert again.data_hash(lambda: pytest.fail("it is recorded")) == "a" * 64
    again.check_data("a" * 64)
    with pytest.raises(RunError, match=r"rests on other data \(hash a{12}, here b{12};"):
        again.check_data("b" * 64)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "is not the manifest of a toy; choose another directory"),
        ('{"format": "subspace_lab.run"}', "is not the manifest of a toy; choose another directory"),
        (
            '{"format": "subspace_lab.toy", "format_version": 1}',
            "has format version 1, this release reads 2; choose another",
        ),
        ('{"format": "subspace_lab.toy", "format_version": 3}', "has format version 3, this release reads 2"),
        ('{"format": "subspace_lab.toy", "format_version": 2, "environment": {}}', "has no valid 'settings'; restore"),
        ('{"format": "subspace_lab.toy", "format_version": 2, "settings": {}}', "has no valid 'environment'; restore"),
    ],
)
def test_a_damaged_manifest_is_one_line(store: Store, content: str, message: str) -> None:
    (store.path / "toy.json").write_text(content)
    for reader in (lambda: Store.open(store.path, TOY), lambda: Store.begin(store.path, TOY, SETTINGS)):
        with pytest.raises(RunError, match=message) as caught:
            reader()
        assert "\n" not in str(caught.value)


def test_directories_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="is a file; choose another directory"):
        Store.begin(tmp_path / "file", TOY, SETTINGS)
    with pytest.raises(RunError, match="is not empty and holds no toy; choose another directory"):
        Store.begin(tmp_path, TOY, SETTINGS)
    with pytest.raises(RunError, match="holds no toy; give the directory of one"):
        Store.open(tmp_path, TOY)
    Store.begin(tmp_path / "new" / "deeper", TOY, SETTINGS)
    with pytest.raises(RunError, match="is not the manifest of another kind; choose another directory"):
        Store.open(tmp_path / "new" / "deeper", dataclasses.replace(TOY, name="other", holds="another kind"))


def test_one_writer_at_a_time(store: Store) -> None:
    with store.writing(), pytest.raises(RunError, match=r"[^\n]+"), reopened(store).writing():
        pytest.fail("two writers")
    with store.writing():
        pass


def test_a_table_of_other_columns_is_refused(store: Store) -> None:
    store.enroll([trial()])
    store.results.drop(columns="status").to_parquet(store.path / "results.parquet")
    with pytest.raises(RunError, match=r"results\.parquet[^\n]*$"):
        reopened(store).results  # noqa: B018
