"""``subspace-lab recommend``."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import subspace_lab as sl
from subspace_lab.cli.recommend import _verdict
from subspace_lab.studies import optimizers
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
        settings, evidence, errors = (line.split()[1:] for line in lines if layer.layer in line)
        signs = {"at most": ["≤"], "at least": ["≥"], "": []}
        rank, interval = [*signs[layer.rank_bound], str(layer.rank)], [*signs[layer.bound], str(layer.update_interval)]
        if layer.rule == "jump":
            interval = ["any"]
        step = [] if layer.walk_step is None else [f"{layer.walk_step:.2f}"]
        assert settings == [*rank, *interval, layer.rule, *step, layer.recovery]
        shares = (layer.fraction, layer.null_noise, layer.retained, layer.bulk)
        assert layer.bulk_signal is None
        assert evidence == [*(f"{share:.0%}" for share in shares), f"{layer.state_bytes / 1e6:.2f}"]
        shown = [layer.rank_se, layer.update_interval_se, layer.walk_step_se]
        assert errors == [*(f"{se:.2g}" for se in shown if se is not None), f"{layer.retained_se:.0%}"]


@pytest.mark.parametrize("fast", [(), ("--fast",)])
def test_recommend_fits_into_eighty_columns(
    run_dir: Path, command: Command, monkeypatch: pytest.MonkeyPatch, fast: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = command("recommend", run_dir, *fast)
    assert done.status == 0
    assert all(len(line) <= 80 for line in done.out.splitlines() if not line.startswith("saved "))
    names = [line.split()[0] for line in done.out.splitlines() if line.startswith("model.")]
    plan = sl.Plan.load(run_dir / "plan.json")
    assert names == [layer.layer for layer in plan.layers] * 3, "whole names, one line each, in all three tables"
    assert all(layer.rule.startswith("trig") == bool(fast) for layer in plan.layers)


def test_recommend_says_what_rests_on_nothing(command: Command, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", noise({"blocks.0.w.weight": (16, 24), "blocks.1.w.weight": (16, 24)}))
    sl.analysis.energy(run, ranks=(2, 4))
    done = command("recommend", tmp_path / "run")
    assert "above noise at no rank: 2 of 2 layers" in done.out
    assert done.out.count(" ≤ 2 ") == 2
    assert "-0%" not in done.out


def test_recommend_honours_a_budget(command: Command, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", noise({"blocks.0.w.weight": (16, 24)}))
    sl.analysis.energy(run, ranks=(2, 4))
    done = command("recommend", tmp_path / "run", "--budget", "1.5KB")
    assert "of a budget of 0.00 MB" in done.out
    assert sl.Plan.load(tmp_path / "run" / "plan.json").budget_bytes == 1500
    for size, said in (("1MiB", 2**20), ("2 GB", 2 * 10**9), ("4000", 4000)):
        assert command("recommend", tmp_path / "run", "--budget", size).status == 0
        assert sl.Plan.load(tmp_path / "run" / "plan.json").budget_bytes == said
    small = command("recommend", tmp_path / "run", "--budget", "100")
    assert small.status != 0
    assert "take 516; give that" in small.err
    wrong = command("recommend", tmp_path / "run", "--budget", "lots")
    assert "'lots' is not a size; give one such as 2GB" in wrong.err
    endless = command("recommend", tmp_path / "run", "--budget", "9" * 400)
    assert "is not a size; give one such as 2GB" in endless.err


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("seeds", "4"), ("steps", "5"), ("workers", "5"), ("executor", "slurm"), ("slurm", "--slurm.time 60"),
        ("data", "d"), ("model", "m"), ("tokenizer", "t"),
    ],
)  # fmt: skip
def test_options_of_a_check_are_refused_without_one(command: Command, tmp_path: Path, option: str, words: str) -> None:
    run = write_run(tmp_path / "run", noise({"blocks.0.w.weight": (16, 24)}))
    given = words.split() if words.startswith("--") else [f"--{option}", words]
    done = command("recommend", run.path, *given)
    assert done.status != 0
    assert done.err.strip() == f"error: --{option} has no effect without --check; leave it out"
    assert not (run.path / "plan.json").exists()


def test_a_check_passes_on_how_its_trainings_are_run(
    run_dir: Path, world: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, object] = {}

    def compared(*_: object, **arguments: object) -> None:
        given.update(arguments)
        raise ValueError("seen")

    monkeypatch.setitem(vars(optimizers), "compare", compared)
    words = ["--check", "--executor", "slurm", "--workers", "2", "--slurm.partition", "gpu", "--slurm.time", "60"]
    assert command("recommend", run_dir, *words).err.splitlines()[-1] == "error: seen"
    assert {name: given[name] for name in ("executor", "workers", "slurm", "seeds", "protocol")} == {
        "executor": "slurm", "workers": 2, "slurm": {"partition": "gpu", "time": 60}, "seeds": 5,
        "protocol": "tuned",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("gap", "said"),
    [
        ((-0.5, -0.6, -0.4), "plan - default: -0.5000 [-0.6000, -0.4000] (95 %, paired by seed): the plan is better"),
        ((0.5, 0.4, 0.6), "the default is better"),
        ((0.1, -0.1, 0.3), "not distinguishable"),
        ((0.1, math.nan, math.nan), "plan - default: +0.1000, of a single seed; give more --seeds"),
        ((math.nan, math.nan, math.nan), "not known, no seed was completed by both"),
    ],
)
def test_the_verdict_of_a_check(gap: tuple[float, float, float], said: str) -> None:
    assert said in _verdict(*gap)
    assert "nan" not in _verdict(*gap)
