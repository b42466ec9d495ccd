"""``subspace-lab analyze`` and ``verify`` beside the ordinary course."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import subspace_lab as sl
from tests.cli.helpers import TABLES, Command, Outcome, without_drawing
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


SMALL = ["--hessian-layers", "*layers.0.*q_proj*", "--eigenvalues", 2, "--sequences", 2]


def test_the_loss_is_measured_at_the_checkpoints(
    run_dir: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_drawing(monkeypatch)
    (run_dir / "figures").mkdir()
    done = command("analyze", run_dir, "--hessian", "--noise", "--rank", 2, *SMALL)
    assert (done.status, done.err) == (0, "")
    assert {path.stem for path in (run_dir / "analysis").iterdir()} == TABLES | {"hessian", "hessian_summary", "noise"}
    run = sl.Run.open(run_dir)
    hessian, noise = run.table("hessian"), run.table("noise")
    assert set(hessian["step"]) == set(noise["step"]) == {8, 12}
    assert set(hessian["layer"]) == {"model", "model.layers.0.self_attn.q_proj.weight"}
    assert hessian["index"].max() == 1
    assert set(run.table("hessian_summary")["sequences"]) == set(noise["rank"]) == {2}
    assert noise["layer"].nunique() == 15
    assert set(noise["batch_size"]) == {2}


def test_without_checkpoints_one_line_says_how_to_make_them(run_dir: Path, command: Command, tmp_path: Path) -> None:
    shutil.rmtree(run_dir / "checkpoints")
    write_run(tmp_path / "captured", lambda step: {"w.weight": torch.ones(4, 6)})
    for path in (run_dir, tmp_path / "captured"):
        for option in ("--hessian", "--noise"):
            done = command("analyze", path, option)
            assert (done.status, done.out) == (2, "")
            assert done.err.count("\n") == 1
            assert "checkpoints" in done.err
            assert "--checkpoint-every 50 --keep-checkpoints 5" in done.err
            assert not (path / "analysis").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--hessian-layers", "nothing"], "matches no trainable parameter"),
        (["--eigenvalues", 0], "k must be"),
        (["--sequences", 0], "sequences must be"),
    ],
)
def test_mistakes_are_one_line(run_dir: Path, command: Command, arguments: list[object], says: str) -> None:
    done = command("analyze", run_dir, "--hessian", *arguments)
    assert done.status == 2
    assert says in done.err
    assert done.err.count("\n") == 1
