"""``subspace-lab analyze`` and ``verify`` beside the ordinary course."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.cli.helpers import Command, Outcome, without_drawing
from tests.runs_by_hand import write_run


def test_verify_says_how_many_and_finds_an_altered_one(run_dir: Path, command: Command) -> None:
    assert command("verify", run_dir) == Outcome(0, f"{run_dir}: 4 snapshots, all of them sound\n", "")
    path = run_dir / "snapshots" / "step_00000006.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    for name in ("verify", "analyze", "recommend"):
        done = command(name, run_dir)
        assert (done.status, done.out) == (2, "")
        assert done.err.startswith(f"error: {path} was altered: checksum ")
        assert done.err.count("\n") == 1


def test_a_run_without_energy_has_no_findings_and_says_so(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_drawing(monkeypatch)
    write_run(tmp_path / "run", lambda step: {"blocks.0.w.weight": torch.zeros(4, 6)}, steps=2)
    (tmp_path / "run" / "figures").mkdir()
    done = command("analyze", tmp_path / "run")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("\nno findings: no captured gradient is finite and other than zero\n")
