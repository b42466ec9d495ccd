"""A comparison from beginning to end: what is trained, skipped, resumed, recorded, refused."""

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

import subspace_lab as sl
from subspace_lab.experiments import schedule, study
from subspace_lab.experiments.executors.local import LocalExecutor
from subspace_lab.experiments.outcome import read_outcome
from subspace_lab.experiments.progress import last_line
from subspace_lab.experiments.study import StudyInterrupted
from subspace_lab.runs import Run, RunError
from subspace_lab.studies.optimizers import Comparison, compare
from subspace_lab.training import TrainConfig
from tests.studies.optimizers.conftest import LRS, METHODS, SETTINGS, by_label, directory
from tests.training.tiny import write_text

WALK = "grasswalk_lr0.001_seed0"


def times(path):
    """When each file of the cells was last changed."""
    return {file: file.stat().st_mtime_ns for file in (path / "cells").glob("[!.]*/*.json*")} | {
        file: file.stat().st_mtime_ns for file in (path / "cells").glob("[!.]*.json")
    }


def losses(path):
    """What a disturbed comparison must repeat."""
    return pd.read_parquet(path / "curves.parquet")[["cell", "step", "loss", "eval_loss"]]


def test_data_that_changed_in_their_place_are_refused(tmp_path, monkeypatch):
    """The same path is no proof of the same content: rows of both would be averaged."""
    file, path = tmp_path / "text.txt", tmp_path / "a"
    write_text(file)
    monkeypatch.setattr(study, "run_missing", lambda *_, **__: None)
    config = TrainConfig(**SETTINGS | {"update_interval": None}, data=str(file))
    compare(path, ["adamw"], lrs=[1e-3], seeds=1, config=config)
    write_text(file, seed=1)
    with pytest.raises(RunError, match=r"rests on other data \(hash .*; a file was changed, or"):
        compare(path, ["adamw"], lrs=[1e-3], seeds=2, config=config)
    assert len(Comparison.open(path).results) == 1


def test_every_cell_is_in_the_results(finished):
    results = by_label(finished.results)
    assert len(results) == 8
    status = {cell: "diverged" if "1e+20" in cell else "complete" for cell in results.index}
    assert results["status"].to_dict() == status
    assert (results["format"] == 2).all()
    assert results["steps"].unique().tolist() == [12]
    assert (results["cell"] == results.index + "-" + results["trial"].str[:12]).all()
    assert results["trial"].nunique() == 8
    diverged, complete = (results[results["status"] == name] for name in ("diverged", "complete"))
    assert all(diverged["reason"].str.match(r"at step \d+: loss nan, gradient norm nan"))
    assert diverged[["train_loss", "eval_loss", "state_bytes"]].isna().all(axis=None)
    assert (complete["reason"] == "").all()
    assert (complete["steps_done"] == 12).all()
    assert (diverged["steps_done"] < 12).all()
    assert (complete["tokens"] == 12 * 2 * 16).all()
    assert (complete["state_bytes"] == complete["state_bytes_formula"]).all()
    assert (complete["peak_bytes"] > complete["base_bytes"] + complete["state_bytes"]).all()
    assert (complete["base_bytes"] > 50e6).all()
    shares = complete.groupby("method")["refresh_share"].mean()
    assert shares["adamw"] == 0
    assert 0 < shares["grasswalk"] < 1


def test_numbers_are_those_of_the_runs(finished):
    name = directory(finished.path, WALK).name
    run = Run.open(finished.path / "cells" / name)
    assert run.manifest["finished"] is True
    assert (run.steps, run.keep) == ([], "gram")
    row = by_label(finished.results).loc[WALK]
    assert row["train_loss"] == run.metrics["loss"].iloc[-1]  # a tenth of twelve steps
    assert row["eval_loss"] == run.metrics["eval_loss"].iloc[-1]
    assert row["wall_s"] == pytest.approx(run.metrics["seconds"].sum())
    assert row["step_s"] == pytest.approx(run.metrics["seconds"].median())
    assert row["refresh_share"] == pytest.approx(run.metrics["refresh_seconds"].sum() / run.metrics["seconds"].sum())
    curve = finished.curves[finished.curves["cell"] == name]
    assert curve["loss"].tolist() == run.metrics["loss"].tolist()
    assert curve["wall_s"].tolist() == pytest.approx(run.metrics["seconds"].cumsum().tolist())
    assert not [*(run.path / "checkpoints").iterdir()]  # what is complete needs none


def test_cells_of_a_seed_begin_alike(finished):
    first = finished.curves[finished.curves["step"] == 0]
    assert first.groupby("seed")[["loss", "eval_loss"]].nunique().to_numpy().tolist() == [[1, 1], [1, 1]]
    assert first["loss"].nunique() == 2


def test_it_is_opened_again(finished):
    again = sl.Comparison.open(finished.path)
    pd.testing.assert_frame_equal(again.results, finished.results)
    pd.testing.assert_frame_equal(again.table, finished.table)
    assert repr(again).endswith("2 methods, 4 of 8 trials)")
    figures = {"loss_over_steps", "loss_over_time", "loss_by_state"}
    assert {path.stem for path in (finished.path / "figures").iterdir()} == figures
    csv = pd.read_csv(finished.path / "table.csv")
    assert csv["eval_loss"].tolist() == pytest.approx(finished.table["eval_loss"].tolist())


def test_figures_are_drawn_again_byte_for_byte(finished):
    before = {path: path.read_bytes() for path in (finished.path / "figures").iterdir()}
    for path in before:
        path.unlink()
    Comparison.open(finished.path).draw()
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
def test_the_same_call_trains_nothing_and_more_seeds_only_what_is_new(finished, settings, tmp_path, monkeypatch):
    path = tmp_path / "sweep"
    subprocess.run(["cp", "-a", finished.path, path], check=True)
    before = times(path)
    with monkeypatch.context() as patch:
        patch.setattr(schedule, "_request", lambda *_, **__: pytest.fail("there is nothing to train"))
        again = compare(path, METHODS, lrs=LRS, seeds=2, config=settings())
    assert times(path) == before
    pd.testing.assert_frame_equal(again.results, finished.results)

    more = compare(path, METHODS[:1], lrs=LRS[:1], seeds=3, config=settings())
    assert set(by_label(more.results).index) - set(by_label(finished.results).index) == {"grasswalk_lr0.001_seed2"}
    assert {file: when for file, when in times(path).items() if "seed2" not in str(file)} == before
    pd.testing.assert_frame_equal(more.results.iloc[:8], finished.results)


def test_what_diverged_is_begun_again_on_demand(finished, settings, tmp_path):
    path = tmp_path / "sweep"
    subprocess.run(["cp", "-a", finished.path, path], check=True)
    before = times(path)
    found = compare(path, ["adamw"], lrs=[1e20], seeds=1, config=settings(), retry=True)
    changed = {file.stem for file, when in times(path).items() if before.get(file) != when and file.suffix == ".json"}
    assert changed == {directory(path, "adamw_lr1e+20_seed0").name, "manifest"}
    attempts = by_label(found.results)["attempts"]
    assert attempts.to_dict() == {label: 2 if label == "adamw_lr1e+20_seed0" else 1 for label in attempts.index}
    pd.testing.assert_frame_equal(
        found.results[["cell", "status", "reason"]], finished.results[["cell", "status", "reason"]]
    )


@pytest.mark.slow
def test_a_cell_that_is_killed_takes_nobody_along_and_is_resumed(whole, settings, tmp_path, monkeypatch):
    path, killed = tmp_path / "sweep", []
    real = LocalExecutor._answers

    def answers(self):
        line = last_line(directory(path, WALK) / "metrics.jsonl")
        if not killed and line.get("step", 0) >= 5:
            killed.append(self._pids[directory(path, WALK).name])
            os.kill(killed[0], signal.SIGKILL)
        return real(self)

    config = settings(steps=40)
    with monkeypatch.context() as patch:
        patch.setattr(LocalExecutor, "_answers", answers)
        patch.setattr("subspace_lab.experiments.executors.local._PATIENCE_S", 0.01)
        found = by_label(compare(path, METHODS, lrs=[1e-3], seeds=1, config=config, workers=2).results)
    assert found["status"].to_dict() == {WALK: "killed", "adamw_lr0.001_seed0": "complete"}
    assert found.loc[WALK, "reason"] == "killed by SIGKILL, perhaps by the system because memory ran out"
    assert 6 <= found.loc[WALK, "steps_done"] < 40

    outcome_of_adamw = path / "cells" / f"{directory(path, 'adamw_lr0.001_seed0').name}.json"
    adamw = outcome_of_adamw.stat().st_mtime_ns
    found = by_label(compare(path, METHODS, lrs=[1e-3], seeds=1, config=config).results)
    assert found["status"].tolist() == ["complete"] * 2
    assert found["attempts"].to_dict() == {WALK: 2, "adamw_lr0.001_seed0": 1}
    assert outcome_of_adamw.stat().st_mtime_ns == adamw
    expected = losses(whole.path)
    curve = losses(path).query("cell == @expected.cell[0]").reset_index(drop=True)  # the same content, the same name
    pd.testing.assert_frame_equal(curve.astype({"cell": str}), expected.astype({"cell": str}))
    one = whole.results.loc[0]
    assert found.loc[WALK, ["train_loss", "eval_loss", "tokens", "state_bytes"]].tolist() == one[
        ["train_loss", "eval_loss", "tokens", "state_bytes"]
    ].tolist()  # fmt: skip
    assert "resuming at step" in (path / "cells" / f"{directory(path, WALK).name}.log").read_text()


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_and_the_same_command_goes_on(whole, world, tmp_path):
    path = tmp_path / "my sweep"
    options = whole.manifest["settings"]["config"]
    names = ("preset", "vocab_size", "steps", "batch_size", "sequence_length", "eval_every", "eval_batches",
             "checkpoint_every", "update_interval", "precision", "data")  # fmt: skip
    words = [word for name in names for word in (f"--{name.replace('_', '-')}", str(options[name]))]
    heeds = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # also where the tests do not
    command = [sys.executable, "-c", f"{heeds}; from subspace_lab.cli import main; main()", "compare", str(path)]
    command += ["--methods", "grasswalk", "--lrs", "1e-3", "--seeds", "1", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while last_line(directory(path, WALK) / "metrics.jsonl").get("step", 0) < 3:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == f"interrupted; the same command goes on with {path}"
    record = read_outcome(path / "cells", directory(path, WALK).name)
    assert (record.status, record.reason.startswith("interrupted at step")) == ("cut", True)
    assert Comparison.open(path).results["status"].tolist() == ["cut"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert "grasswalk" in done.stdout
    pd.testing.assert_frame_equal(losses(path), losses(whole.path))


def test_an_interruption_before_the_first_step_is_no_result(settings, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "run_missing", interrupt)
    with pytest.raises(StudyInterrupted, match="the same command goes on"):
        compare(tmp_path / "sweep", ["adamw"], lrs=[1e-3], seeds=1, config=settings(update_interval=None))
    found = Comparison.open(tmp_path / "sweep")
    assert found.results[["status", "steps_done"]].to_numpy().tolist() == [["pending", 0]]
    assert found.curves.empty


def test_without_its_helper_it_stops_with_one_line(settings, tmp_path, monkeypatch):
    real = LocalExecutor._send

    def send(self, request):
        os.kill(self._started().pid, signal.SIGKILL)
        self._started().wait()
        real(self, request)

    monkeypatch.setattr(LocalExecutor, "_send", send)
    with pytest.raises(RunError, match=r"the process that starts the trials is gone.*run the same command again"):
        compare(tmp_path / "sweep", ["adamw"], lrs=[1e-3], seeds=1, config=settings(update_interval=None))
    assert not (tmp_path / "sweep" / ".lock").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 13}, r"holds another comparison \(steps 12 -> 13\); choose another directory"),
        ({"update_interval": 5, "clip": None}, r"\(update_interval 4 -> 5; clip 1.0 -> None\)"),
    ],
)
def test_another_configuration_is_refused_by_name(finished, settings, changes, message):
    with pytest.raises(RunError, match=message):
        compare(finished.path, METHODS, lrs=LRS, seeds=2, config=settings(**changes))


def test_a_method_that_means_something_else_is_refused(finished, settings):
    methods = {"grasswalk": {"optimizer": "grasswalk", "rank": 3}}
    with pytest.raises(RunError, match=r"method grasswalk .* -> .*'rank': 3"):
        compare(finished.path, methods, lrs=LRS, config=settings())


def test_other_directories_are_refused(tmp_path, settings, finished):
    arguments = {"lrs": [1e-3], "seeds": 1, "config": settings()}
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="is a file"):
        compare(tmp_path / "file", ["adamw"], **arguments)
    with pytest.raises(RunError, match="is not empty and holds no comparison"):
        compare(tmp_path, ["adamw"], **arguments)
    with pytest.raises(RunError, match="is not empty and holds no comparison"):
        compare(directory(finished.path, WALK), ["adamw"], **arguments)
    with pytest.raises(RunError, match="holds no comparison"):
        Comparison.open(tmp_path)
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "comparison.json").write_text(json.dumps({"format": "subspace_lab.run"}))
    with pytest.raises(RunError, match="is not the manifest of a comparison"):
        compare(tmp_path / "sweep", ["adamw"], **arguments)


def test_a_configuration_is_a_train_config(tmp_path):
    with pytest.raises(TypeError, match="config must be a TrainConfig, got dict"):
        compare(tmp_path / "sweep", ["adamw"], lrs=[1e-3], config={"steps": 3})
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"executor": "slum"}, "there is no executor 'slum'; nearest: slurm"),
        ({"workers": 0}, "workers must be a whole number of at least 1, got 0"),
        ({"seeds": 0}, "seeds must be a whole number of at least 1, got 0"),
        ({"seeds": 1.5}, "seeds must be a whole number of at least 1, got 1.5"),
        ({"slurm": {"time": 60}}, "options of Slurm have no effect on executor='local'"),
    ],
)
def test_wrong_arguments_leave_nothing_behind(settings, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        compare(tmp_path / "sweep", METHODS, lrs=[1e-3], config=settings(), **arguments)
    assert not (tmp_path / "sweep").exists()


def test_methods_that_are_the_same_by_other_names_are_trained_once_and_both_in_the_table(settings, tmp_path):
    methods = {"one": {"optimizer": "grasswalk"}, "two": {"optimizer": "GrassWalk", "walk_step": 0.1}}
    found = compare(tmp_path / "sweep", methods, lrs=[1e-3], seeds=1, config=settings(steps=2), workers=2)
    assert found.results[["method", "status", "attempts"]].to_numpy().tolist() == [
        ["one", "complete", 1], ["two", "complete", 1],
    ]  # fmt: skip
    assert found.results["eval_loss"].nunique() == found.results["cell"].nunique() == 1
    cell = found.results["cell"][0]
    assert {path.name for path in (tmp_path / "sweep" / "cells").iterdir()} >= {cell, f"{cell}.json"}
    assert len([*(tmp_path / "sweep" / "cells").glob("*.json")]) == 1
    one, two = (found.curves.loc[found.curves["method"] == name, "loss"].tolist() for name in ("one", "two"))
    assert one == two
    assert len(one) == 2
    assert found.table["eval_loss"].nunique() == 1


@pytest.mark.slow
def test_the_tuned_protocol_searches_and_evaluates_apart(settings, tmp_path, capsys):
    """Every method has its own setting; what is counted was not tuned on; the same call goes on and trains nothing."""
    path = tmp_path / "sweep"
    config = settings(steps=8, warmup=None, checkpoint_every=8)
    with pytest.raises(ValueError, match="lrs is needed for a grid"):
        compare(path, METHODS, config=config)
    with pytest.raises(ValueError, match="lrs has one learning rate only"):
        compare(path, METHODS, lrs=[1e-3], protocol="tuned", config=config)
    with pytest.raises(ValueError, match="protocol must be one of 'grid', 'tuned', got 'tune'"):
        compare(path, METHODS, protocol="tune", config=config)
    assert not path.exists()
    found = compare(path, METHODS, protocol="tuned", seeds=2, lrs=[1e-3, 1e-2], config=config, workers=2)
    assert "tuned protocol: at most 24 trainings of 8 steps to come" in capsys.readouterr().err
    rows = found.results
    assert (rows["status"] == "complete").all()
    tuned, evaluated = (rows[rows["phase"] == phase] for phase in ("tune", "evaluate"))
    assert set(tuned["seed"]) == {1000}
    assert set(evaluated["seed"]) == {0, 1}
    assert (tuned.groupby("method").size() <= 10).all()
    names = ["lr", "lr_rest", "beta2", "warmup"]
    for method, trials in tuned.groupby("method"):
        best = trials.sort_values("eval_loss", kind="stable").iloc[0]
        row = found.table.set_index("method").loc[method]
        assert row[names].tolist() == best[names].tolist()
        losses = evaluated[evaluated["method"] == method]
        assert losses[names].drop_duplicates().to_numpy().tolist() == [best[names].tolist()]
        assert row["eval_loss"] == pytest.approx(losses["eval_loss"].mean())
        assert row["seeds"] == 2
    again = compare(path, METHODS, protocol="tuned", seeds=2, lrs=[1e-3, 1e-2], config=config)
    pd.testing.assert_frame_equal(again.results, rows)
    with pytest.raises(RunError, match=r"holds another comparison \(protocol tuned -> None\)"):
        compare(path, METHODS, lrs=[1e-3], config=config)
