"""``subspace-lab recommend``."""

from __future__ import annotations

from pathlib import Path

import pytest

import subspace_lab as sl
from tests.cli.helpers import Command
from tests.runs_by_hand import noise, write_run


def test_recommend_prints_and_saves_the_plan(run_dir: Path, command: Command) -> None:
    done = command("recommend", run_dir)
    assert done.status == 0
    plan = sl.Plan.load(run_dir / "plan.json")
    assert plan == sl.recommend(sl.Run.open(run_dir))
    lines = done.out.splitlines()
    assert lines[-1] == f"saved {run_dir / 'plan.json'}"
    for layer in plan.layers:
        (line,) = (line for line in lines if layer.layer in line)
        signs = {"at most": ["≤"], "at least": ["≥"], "": []}
        rank, interval = [*signs[layer.rank_bound], str(layer.rank)], [*signs[layer.bound], str(layer.update_interval)]
        energy, noise, kept = (f"{share:.0%}" for share in (layer.fraction, layer.null_noise, layer.retained))
        assert line.split() == [layer.layer, *rank, energy, noise, *interval, kept]


def test_recommend_fits_into_eighty_columns(run_dir: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = command("recommend", run_dir)
    assert done.status == 0
    assert all(len(line) <= 80 for line in done.out.splitlines() if not line.startswith("saved "))
    names = [line.split()[0] for line in done.out.splitlines() if line.startswith("model.")]
    assert names == [layer.layer for layer in sl.Plan.load(run_dir / "plan.json").layers], "whole names, one line each"


def test_recommend_says_what_rests_on_nothing(command: Command, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", noise({"blocks.0.w.weight": (16, 24), "blocks.1.w.weight": (16, 24)}))
    sl.analysis.energy(run, ranks=(2, 4))
    done = command("recommend", tmp_path / "run")
    assert "at no rank told from noise: 2 of 2 layers" in done.out
    assert done.out.count(" ≤ 2 ") == 2
    assert "-0%" not in done.out
