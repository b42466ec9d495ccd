"""``subspace-lab demo``."""

from __future__ import annotations

from pathlib import Path

import pytest

import subspace_lab as sl
from tests.cli.helpers import Command, without_drawing


@pytest.mark.slow
def test_demo_ends_with_three_findings_and_the_report(
    command: Command, small_demo: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "demo"
    done = command("demo", run_dir, *small_demo)
    assert done.status == 0
    run = sl.Run.open(run_dir)
    assert (run.steps, run.manifest["config"]["data"]) == ([0, 10], "stdlib")
    told = sl.analysis.findings(run)
    assert [finding.title for finding in told[:3]] == [
        "Core energy against its null", "Trend over training and depth", "Drift of the subspace"
    ]  # fmt: skip
    assert done.out.index(told[0].text) < done.out.index(told[1].text) < done.out.index(told[2].text)
    assert done.out.endswith(f"report: {run_dir / 'report.html'}\n")
    (disk,) = (line for line in done.out.splitlines() if line.startswith("disk: "))
    assert disk.endswith(f"; to free it: rm -r {run_dir}")
    size = sum(path.stat().st_size for path in run_dir.rglob("*") if path.is_file())
    assert abs(int(disk.split()[1]) - size / 1e6) < 1

    snapshots = {path: path.stat().st_mtime_ns for path in (run_dir / "snapshots").iterdir()}
    without_drawing(monkeypatch)
    assert command("demo", run_dir, *small_demo).status == 0
    assert (run_dir / "report.html").read_text() == "written again"
    assert all(path.stat().st_mtime_ns == time for path, time in snapshots.items())
    done = command("demo", run_dir, "--steps", 13)
    assert (done.status, done.out) == (2, "")
    assert done.err == f"error: {run_dir} holds another run (steps 12 -> 13); choose another directory for this one\n"
