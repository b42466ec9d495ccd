"""What lies in a run directory may be anything; one line says what and where."""

import json
import os
import shutil
import socket

import pytest
import torch

import subspace_lab as sl
from subspace_lab._reading import read_bytes, read_json
from subspace_lab.analysis import Plan
from subspace_lab.experiments.outcome import Outcome, outcome_path, read_outcome, write_outcome
from subspace_lab.experiments.progress import last_line
from subspace_lab.experiments.store import Store
from subspace_lab.runs import Run, RunError
from subspace_lab.runs.metrics import read_metrics
from subspace_lab.runs.snapshot import Snapshot, snapshot_path
from subspace_lab.studies.grass_paper.out_dir import PAPER
from subspace_lab.studies.optimizers.comparison import COMPARISON
from subspace_lab.training.checkpoint import checkpoint_steps
from tests.runs.build import make_run, refuses

KEYS = {"excess": 0.1, "fraction": 0.5, "null_noise": 0.2, "update_interval": 10, "retained": 0.7, "bound": "",
        "rank_bound": "", "above_noise": True, "rule": "walk", "walk_step": 0.3, "recovery": "none", "bulk": 0.5,
        "bulk_signal": None, "state_bytes": 100}  # fmt: skip
PLAN = {"format": "subspace_lab.plan", "format_version": 1, "steps": 3, "budget_bytes": None,
        "layers": [{"layer": "a", "rank": 4, **KEYS}]}  # fmt: skip


def a_socket(path):
    before = os.getcwd()
    os.chdir(path.parent)  # its address may not be long
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(before)


def a_device(path):
    path.symlink_to("/dev/zero")


def a_sparse_giant(path):
    with path.open("wb") as file:
        file.truncate(1 << 36)


SPECIAL = [os.mkdir, os.mkfifo, a_socket, a_device, a_sparse_giant]
READERS = {
    "manifest.json": lambda path: Run.open(path.parent),
    "metrics.jsonl": read_metrics,
    "plan.json": Plan.load,
    "comparison.json": lambda path: Store.open(path.parent, COMPARISON),
    "evidence.json": lambda path: Store.open(path.parent, PAPER),
}


@pytest.mark.parametrize("make", SPECIAL)
@pytest.mark.parametrize("name", READERS)
def test_special_files_are_refused_in_one_line(tmp_path, name, make):
    make(tmp_path / name)
    (tmp_path / "other").touch()
    with pytest.raises(RunError) as caught:
        READERS[name](tmp_path / name)
    assert str(tmp_path) in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("make", SPECIAL)
def test_special_files_in_the_place_of_an_outcome_or_a_plan(tmp_path, make):
    make(tmp_path / "x")
    make(outcome_path(tmp_path, "y"))
    assert read_outcome(tmp_path, "y") == Outcome()
    with pytest.raises((ValueError, OSError)) as caught:
        sl.optim.from_plan(torch.nn.Linear(3, 3), tmp_path / "x")
    assert str(tmp_path / "x") in str(caught.value)
    if make is not a_sparse_giant:
        with refuses("is not a file"):
            Snapshot(tmp_path / "x")
    if make is not a_device:  # which is the end of a file of metrics without end
        assert last_line(tmp_path / "x") == {}


WRONG = [
    ({"steps": "3"}, "'steps' '3', which must be a whole number"),
    ({"steps": True}, "'steps' True"),
    ({"budget_bytes": 1.5}, "'budget_bytes' 1.5, which must be a whole number or null"),
    ({"layers": {}}, "'layers' {}, which must be a list"),
    ({"layers": [3]}, "layer 0 needs fields by name, got 3"),
    ({"layers": [{"layer": "a"}]}, "layer 0 has no 'rank'"),
    ({"layers": [*PLAN["layers"], *PLAN["layers"]]}, "has a layer twice"),
    *(({"layers": [*PLAN["layers"], {**PLAN["layers"][0], "layer": "b", key: value}]}, f"layer 1 has {key!r}")
      for key, value in [("rank", None), ("rank", 4.0), ("rank", [4]), ("fraction", "x"), ("fraction", float("nan")),
                         ("retained", float("inf")), ("above_noise", 1), ("rule", None), ("walk_step", {}),
                         ("layer", 5), ("unheard", 1), ("rank", 10**30)]),
    ({"layers": [{**PLAN["layers"][0], "rank": 0}]}, "below 1"),
    ({"layers": [{**PLAN["layers"][0], "update_interval": -3}]}, "below 1"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), WRONG, ids=[words for _, words in WRONG])
def test_plans_of_another_schema(tmp_path, change, words):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(PLAN))
    assert Plan.load(path).layers[0].rank == 4
    path.write_text(json.dumps({**PLAN, **change}))
    with refuses("plan.json is not a plan of this release; write one with", words):
        Plan.load(path)


@pytest.mark.parametrize(
    "change", [{"status": "fine"}, {"attempts": "1"}, {"peak_bytes": 1.5}, {"reason": None}, {"more": 1}, {"status": 3}]
)
def test_outcomes_of_another_schema_are_none(tmp_path, change):
    write_outcome(tmp_path, "x", Outcome("complete", attempts=2))
    assert read_outcome(tmp_path, "x") == Outcome()  # its directory was removed
    (tmp_path / "x").mkdir()
    assert read_outcome(tmp_path, "x").attempts == 2
    file = outcome_path(tmp_path, "x")
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert read_outcome(tmp_path, "x") == Outcome()


@pytest.mark.parametrize("cells", [[3], [{}], [{"method": "a", "lr": "x", "seed": 0, "config": {}}], {}, None, 3,
                                   [{"method": "a", "lr": 0.1, "seed": 0, "config": []}],
                                   [{"method": "a", "lr": 0.1, "seed": 0, "config": {"steps": "x"}}]])  # fmt: skip
def test_comparisons_of_another_schema(tmp_path, cells):
    content = {
        "format": "subspace_lab.comparison",
        "format_version": 1,
        "config": {},
        "methods": {},
        "cells": cells,
    }
    (tmp_path / "comparison.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"comparison\.json .*; (restore|choose)"):
        Store.open(tmp_path, COMPARISON)


@pytest.mark.parametrize("change", [{"settings": []}, {"settings": None}, {"environment": 3}, {"format_version": 3}])
def test_comparisons_of_format_2_with_another_schema(tmp_path, change):
    content = {"format": "subspace_lab.comparison", "format_version": 2, "settings": {}, "environment": {}, **change}
    (tmp_path / "comparison.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"comparison\.json has [^\n]*; (restore|upgrade)[^\n]*$"):
        Store.open(tmp_path, COMPARISON)


def denied(*args, **kwargs):
    raise PermissionError(13, "Permission denied")


def test_a_directory_that_cannot_be_listed_is_not_empty(tmp_path, monkeypatch):
    run_dir = make_run(tmp_path / "run")
    run = Run.open(run_dir)
    with monkeypatch.context() as patch:
        for name in ("os.listdir", "os.scandir"):
            patch.setattr(name, denied)
        for ask in (run.verify, lambda: checkpoint_steps(run_dir)):
            with refuses("cannot read", "Permission denied"):
                ask()
    assert run.verify() == 2
    shutil.rmtree(run_dir / "snapshots")
    (run_dir / "snapshots").touch()
    with refuses("snapshots is not a directory"):
        Run.open(run_dir).verify()


@pytest.mark.parametrize(("number", "reason"), [(13, "Permission denied"), (5, "Input/output error"), (116, "Stale")])
def test_unreadable_is_not_torn(tmp_path, monkeypatch, number, reason):
    run_dir = make_run(tmp_path / "run")
    path = snapshot_path(run_dir, 10)
    real = os.open

    def fail(file, *args, **options):
        if str(file) == str(path):
            raise OSError(number, os.strerror(number), file)
        return real(file, *args, **options)

    monkeypatch.setattr("os.open", fail)
    with pytest.raises(RunError) as caught:
        Run.open(run_dir).verify()
    assert f"cannot read {path}: {reason}" in str(caught.value)
    line = str(caught.value).replace(str(path), "")
    assert "torn" not in line
    assert "delete" not in line


def test_a_disk_that_fails_while_it_is_read_is_not_torn(tmp_path, monkeypatch):
    run_dir = make_run(tmp_path / "run")
    with Snapshot(snapshot_path(run_dir, 0)) as snapshot, monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.open", denied)
        with refuses("cannot read", "Permission denied"):
            snapshot.verify()
        snapshot.path = run_dir / "nothing"


def test_what_is_read(tmp_path):
    (tmp_path / "x").write_text("[1, 2]")
    (tmp_path / "link").symlink_to(tmp_path / "x")
    assert read_bytes(tmp_path / "x") == b"[1, 2]"
    assert read_json(tmp_path / "link") == [1, 2]
    with pytest.raises(OSError, match="it has 6 bytes, more than the 5 that are read"):
        read_bytes(tmp_path / "x", most=5)
    for text in ("", "[" * 100_000, "\xff"):
        (tmp_path / "x").write_bytes(text.encode("latin-1"))
        with pytest.raises(ValueError, match=r"nested too deeply|Expecting value|decode"):
            read_json(tmp_path / "x")


def test_many_snapshots_are_found_at_once(tmp_path):
    """A step that was not captured is known by a look into a set, whatever the number of snapshots."""
    run = Run.open(make_run(tmp_path / "run"))
    run.__dict__["steps"] = Counted(range(100_000))
    for step in range(99_000, 99_100):
        with pytest.raises(RunError, match="there is no snapshot"):
            run.snapshot(step)
    assert run.steps.compared == 0
    for step in (-1, "3", None, [3], 0.5):
        with pytest.raises(RunError, match="has no snapshot of step"):
            run.snapshot(step)


class Counted(list):
    """A list that counts how often it is searched."""

    compared = 0

    def __contains__(self, value):
        self.compared += 1
        return super().__contains__(value)
