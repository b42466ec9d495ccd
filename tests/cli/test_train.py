"""``subspace-lab train``, and what comes after it."""

from __future__ import annotations

from pathlib import Path

import pytest

import subspace_lab as sl
from tests.cli.helpers import TABLES, TINY, Command, Outcome, without_drawing


@pytest.mark.slow
def test_train_then_analyze(world: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = tmp_path / "a run"
    layers = ("*.q_proj.*", "*.down_proj.*")
    done = command("train", run_dir, "--data", world, *TINY, "--layers", *layers, "--clip", "none", "--betas", 0.8, 0.9)
    assert (done.status, done.out) == (0, f"next: subspace-lab analyze '{run_dir}'\n")
    run = sl.Run.open(run_dir)
    assert (run.steps, run.manifest["finished"]) == ([0, 3, 6, 9], True)
    assert set(run.layers["kind"]) == {"q_proj", "down_proj"}
    config = run.manifest["config"]
    assert (config["layers"], config["clip"], config["betas"]) == ([*layers], None, [0.8, 0.9])

    done = command("analyze", run_dir, "--ranks", 2, 5, "--rank", 3, "--lags", 1, 2, "--top", 2, "--workers", 2)
    assert done.status == 0
    assert set(run.table("energy")["rank"]) == {2, 5}
    assert set(run.table("energy")["lag_steps"]) == {0, 3, 6}
    assert set(run.table("angles")["rank"]) == {3}
    assert set(run.table("curvature")["index"]) == {0, 1}
    assert {path.stem for path in (run_dir / "analysis").iterdir()} == TABLES
    for finding in sl.analysis.findings(run):
        assert f"\n{finding.title}\n  {finding.text}\n" in done.out
    assert done.out.endswith(f"report: {run_dir / 'report.html'}\n")
    assert (run_dir / "report.html").stat().st_size > 10_000
    assert len([*(run_dir / "figures").glob("*.png")]) == len([*(run_dir / "figures").glob("*.pdf")]) > 4

    without_drawing(monkeypatch)
    done = command("report", run_dir)
    assert done == Outcome(0, f"1 figure files in {run_dir / 'figures'}\nreport: {run_dir / 'report.html'}\n", "")
    assert (run_dir / "report.html").read_text() == "written again"


@pytest.mark.parametrize("name", ["grass-walk", "BAdam"])
def test_train_with_another_optimizer(name: str, world: Path, command: Command, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    settings = {"grass-walk": ["--rank", 5, "--scale", 0.5], "BAdam": []}[name]
    words = {"grass-walk": {"walk-step": "5e-2", "zeta": "none", "transport": "clamped"}, "BAdam": {"seed": 7}}[name]
    options = [word for key, value in words.items() for word in (f"--optimizer-options.{key}", value)]
    arguments = ["--optimizer", name, "--update-interval", 4, *settings, *options]
    assert command("train", run_dir, "--data", world, *TINY, *arguments).status == 0
    config = sl.Run.open(run_dir).manifest["config"]
    found = [config[key] for key in ("optimizer", "rank", "update_interval", "scale", "optimizer_options")]
    assert (
        found
        == {
            "grass-walk": ["grasswalk", 5, 4, 0.5, {"walk_step": 0.05, "zeta": None, "transport": "clamped"}],
            "BAdam": ["badam", None, 4, 1.0, {"seed": 7}],
        }[name]
    )
