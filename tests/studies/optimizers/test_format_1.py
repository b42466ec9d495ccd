"""A comparison as format 1 wrote it is read without being written, and goes on with nothing lost."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pandas as pd
import pytest

from subspace_lab.experiments import schedule, store
from subspace_lab.experiments.outcome import read_outcome, write_outcome
from subspace_lab.runs import RunError
from subspace_lab.studies.optimizers import Comparison, compare
from subspace_lab.training import TrainConfig, train
from subspace_lab.training.checkpoint import checkpoint_path, checkpoint_steps
from tests.studies.optimizers.conftest import LRS, METHODS

RESULTS = {
    "cell": "str", "method": "str", "lr": "float64", "seed": "int64", "status": "str", "reason": "str",
    "attempts": "int64", "steps": "int64", "tokens": "Int64", "train_loss": "float64", "eval_loss": "float64",
    "wall_s": "float64", "step_s": "float64", "refresh_s": "float64", "refresh_share": "float64",
    "state_bytes": "Int64", "state_bytes_formula": "Int64", "peak_bytes": "Int64", "base_bytes": "Int64",
}  # fmt: skip
CURVES = {
    "cell": "category", "method": "category", "lr": "float64", "seed": "int64", "step": "int64", "wall_s": "float64",
    "loss": "float64", "eval_loss": "float64", "bulk_share": "float64", "recovery_share": "float64",
    "limiter": "float64", "limited_share": "float64",
}  # fmt: skip
WALK = "grasswalk_lr0.001_seed0"


def manifest_of(base, methods, cells, environment):
    return {
        "format": "subspace_lab.comparison", "format_version": 1, "library_version": "0.9.0",
        "created": "2026-10-01T12:00:00+00:00", "config": base, "environment": environment, "methods": methods,
        "cells": cells,
    }  # fmt: skip


@pytest.fixture
def old(finished, tmp_path):
    """The finished comparison in format 1: other names of directories, other columns, all cells in the manifest."""
    path = tmp_path / "sweep"
    (path / "cells").mkdir(parents=True)
    names = dict(zip(finished.results["cell"], finished.results["cell"].str[:-13], strict=True))
    cells = []
    for row in finished.results.to_dict("records"):
        source, name = finished.path / "cells" / row["cell"], names[row["cell"]]
        shutil.copytree(source, path / "cells" / name)
        shutil.copy(f"{source}.json", path / "cells" / f"{name}.json")
        config = json.loads((source / "manifest.json").read_text())["config"] | {"layers": None}
        cells.append({"method": row["method"], "lr": row["lr"], "seed": row["seed"], "config": config})
    settings = finished.manifest["settings"]
    manifest = manifest_of(settings["config"], settings["methods"], cells, finished.manifest["environment"])
    (path / "comparison.json").write_text(json.dumps(manifest))
    results = finished.results.assign(cell=finished.results["cell"].map(names), steps=finished.results["steps_done"])
    results[[*RESULTS]].astype(RESULTS).to_parquet(path / "results.parquet", index=False)
    curves = finished.curves.assign(cell=finished.curves["cell"].astype(str).map(names))
    curves[[*CURVES]].astype(CURVES).to_parquet(path / "curves.parquet", index=False)
    return path


def content(path):
    return {file.relative_to(path): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def without_names(results):
    return results.drop(columns=["trial", "cell", "format"])


def edited(path, edit):
    file = path / "comparison.json"
    manifest = json.loads(file.read_text())
    edit(manifest)
    file.write_text(json.dumps(manifest))


def no_training(patch):
    patch.setattr(schedule, "_request", lambda *_, **__: pytest.fail("there is nothing to train"))


def test_it_is_read_without_being_written_and_without_its_data(old, finished):
    def moved(manifest):
        for config in (manifest["config"], *(row["config"] for row in manifest["cells"])):
            config["data"] = "/nowhere/words.txt"

    edited(old, moved)
    before = content(old)
    found = Comparison.open(old)
    assert content(old) == before
    pd.testing.assert_frame_equal(without_names(found.results), without_names(finished.results))
    assert (found.results["format"] == 1).all()
    assert (found.results["trial"] == "").all()
    assert found.results["cell"].tolist() == finished.results["cell"].str[:-13].tolist()
    pd.testing.assert_frame_equal(found.table, finished.table)
    pd.testing.assert_series_equal(found.curves["loss"], finished.curves["loss"])
    assert found.manifest["settings"] == {
        "config": {**finished.manifest["settings"]["config"], "data": "/nowhere/words.txt"},
        "methods": finished.manifest["settings"]["methods"],
    }
    assert found.manifest["created"] == "2026-10-01T12:00:00+00:00"
    assert found.manifest["environment"] == finished.manifest["environment"]


def test_without_tables_its_rows_are_those_of_the_directories(old, finished):
    for name in ("results", "curves"):
        (old / f"{name}.parquet").unlink()
    found = Comparison.open(old)
    pd.testing.assert_frame_equal(without_names(found.results), without_names(finished.results))
    assert not (old / "results.parquet").exists()


def test_it_goes_on_and_trains_only_what_is_new(old, finished, settings, monkeypatch):
    with monkeypatch.context() as patch:
        no_training(patch)
        same = compare(old, METHODS, lrs=LRS, seeds=2, config=settings())
    pd.testing.assert_frame_equal(without_names(same.results), without_names(finished.results))
    manifest = json.loads((old / "comparison.json").read_text())
    assert (manifest["format_version"], "cells" in manifest) == (2, False)
    more = compare(old, ["grasswalk"], lrs=[1e-3], seeds=3)
    pd.testing.assert_frame_equal(more.results.iloc[:8], same.results)
    (row,) = more.results.iloc[8:].to_dict("records")
    assert (row["seed"], row["status"], row["format"], row["cell"]) == (
        2, "complete", 2, f"grasswalk_lr0.001_seed2-{row['trial'][:12]}",
    )  # fmt: skip
    curves = Comparison.open(old).curves
    pd.testing.assert_series_equal(curves["loss"][: len(finished.curves)], finished.curves["loss"])
    assert (curves["cell"] == row["cell"]).sum() == 12


def test_a_cell_of_another_configuration_than_today_is_kept_and_matches_nothing(old, finished, settings):
    edited(old, lambda manifest: manifest["cells"][0]["config"].update(clip=7.0))
    before = Comparison.open(old).results
    assert [cell for cell, trial in zip(before["cell"], before["trial"], strict=True) if trial] == [WALK]
    found = compare(old, METHODS, lrs=LRS, seeds=2, config=settings()).results
    pd.testing.assert_frame_equal(found.iloc[:8], before)
    (row,) = found.iloc[8:].to_dict("records")
    assert (row["method"], row["lr"], row["seed"], row["format"]) == ("grasswalk", 1e-3, 0, 2)
    assert row["trial"] != before["trial"][0]
    assert row["eval_loss"] == finished.results["eval_loss"][0]


def test_a_cell_that_was_killed_is_resumed_in_its_old_directory(old, finished, settings):
    cell = old / "cells" / WALK
    config = TrainConfig.from_dict(json.loads((cell / "manifest.json").read_text())["config"])
    shutil.rmtree(cell)
    train(cell, config)
    checkpoint_path(cell, checkpoint_steps(cell)[-1]).unlink()
    manifest = json.loads((cell / "manifest.json").read_text())
    (cell / "manifest.json").write_text(json.dumps({**manifest, "finished": False}))
    outcome = read_outcome(old / "cells", WALK)
    write_outcome(old / "cells", WALK, dataclasses.replace(outcome, status="killed", reason="killed by SIGKILL"))
    (old / "results.parquet").unlink()
    assert Comparison.open(old).results["status"][0] == "killed"
    found = compare(old, METHODS, lrs=LRS, seeds=2, config=settings())
    row = found.results.iloc[0]
    assert row[["cell", "status", "attempts", "format"]].tolist() == [WALK, "complete", 2, 1]
    assert row["eval_loss"] == finished.results["eval_loss"][0]
    assert len(found.results) == 8
    assert {path.name for path in (old / "cells").iterdir() if path.is_dir()} == set(found.results["cell"])
    assert "resuming at step" in (old / "cells" / f"{WALK}.log").read_text()


def test_killed_while_it_is_written_in_format_2_nothing_is_changed(old, settings, monkeypatch):
    before = Comparison.open(old).results

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "publish_json", killed)
        with pytest.raises(KeyboardInterrupt):
            compare(old, METHODS, lrs=LRS, seeds=2, config=settings())
    assert json.loads((old / "comparison.json").read_text())["format_version"] == 1
    pd.testing.assert_frame_equal(Comparison.open(old).results, before)
    with monkeypatch.context() as patch:
        no_training(patch)
        pd.testing.assert_frame_equal(
            compare(old, METHODS, lrs=LRS, seeds=2, config=settings()).results[before.columns], before
        )


@pytest.mark.parametrize(
    "edit",
    [
        lambda manifest: manifest.pop("cells"),
        lambda manifest: manifest.pop("methods"),
        lambda manifest: manifest["methods"].pop("adamw"),
        lambda manifest: manifest["cells"][0].pop("seed"),
        lambda manifest: manifest["cells"][0].update(lr="x"),
        lambda manifest: manifest["cells"][0]["config"].update(steps="x"),
        lambda manifest: manifest["config"].update(unheard=1),
    ],
)
def test_a_damaged_one_is_one_line(old, edit):
    edited(old, edit)
    with pytest.raises(RunError, match=r"comparison\.json [^\n]*; (restore|choose)[^\n]*$"):
        Comparison.open(old)


def test_its_plan_may_be_gone_when_it_is_read(old, finished):
    """What it kept of the plan is in its results."""
    plan = {"optimizer": "subspaceadam", "plan": "/nowhere/plan.json"}

    def planned(manifest):
        manifest["methods"]["plan"] = plan
        config = {**manifest["cells"][0]["config"], "optimizer": "subspaceadam", "rank": None}
        config = {**config, "update_interval": None, "optimizer_options": {"plan": "/nowhere/plan.json"}}
        manifest["cells"].append({"method": "plan", "lr": 1e-3, "seed": 0, "config": config})

    edited(old, planned)
    results = pd.read_parquet(old / "results.parquet")
    row = results.iloc[:1].assign(cell="plan_lr0.001_seed0", method="plan", state_bytes_formula=3)
    pd.concat([results, row], ignore_index=True).astype(RESULTS).to_parquet(old / "results.parquet", index=False)
    found = Comparison.open(old).results
    assert len(found) == 9
    assert found.iloc[8][["method", "status", "state_bytes_formula", "trial"]].tolist() == ["plan", "complete", 3, ""]
    (old / "results.parquet").unlink()
    found = Comparison.open(old).results
    assert found["status"].tolist() == [*finished.results["status"], "pending"]
    assert found["state_bytes_formula"].isna().tolist() == [False] * 8 + [True]
