"""Help, Ctrl-C, whoever stops reading, notes and tracebacks: what all commands have in common."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import subspace_lab as sl
from tests.cli.helpers import COMMANDS, TINY, Command, Outcome, press_ctrl_c_in
from tests.runs_by_hand import noise, write_run


def test_help_needs_none_of_the_heavy_packages() -> None:
    code = f"""
import sys
from subspace_lab.cli import main
for arguments in ([], ["--version"], *([command, "--help"] for command in {COMMANDS!r})):
    sys.argv = ["subspace-lab", *arguments]
    try:
        main()
    except SystemExit as end:
        assert not end.code
heavy = {{"torch", "numpy", "transformers", "pandas", "matplotlib", "scipy", "jinja2"}}
print(sorted(sys.modules.keys() & heavy))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(f"Usage: subspace-lab {command}" in done.stdout for command in COMMANDS)
    assert sl.__version__ in done.stdout.splitlines()


@pytest.mark.parametrize("name", ["analyze", "report", "recommend", "verify"])
def test_who_stops_reading_gets_no_error_and_the_files(name: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", noise({"blocks.0.w.weight": (6, 9)}), steps=2)
    sl.analysis.analyze(run)
    script = Path(sys.executable).with_name("subspace-lab")
    line = f"'{script}' {name} '{run.path}' | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    assert (done.stdout, done.stderr) == ("141\n", "")
    wanted = {"analyze": "report.html", "report": "report.html", "recommend": "plan.json", "verify": "manifest.json"}
    assert (run.path / wanted[name]).is_file()


@pytest.mark.parametrize("name", ["train", "demo"])
def test_ctrl_c_says_how_to_resume_and_that_is_how(
    name: str, world: Path, command: Command, small_demo: list[str], tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    arguments = {"train": [run_dir, "--data", world, *TINY], "demo": [run_dir, *small_demo]}[name]
    with pytest.MonkeyPatch.context() as patch:
        press_ctrl_c_in(4, patch)
        done = command(name, *arguments)
    assert done.status == 130
    advice = f"interrupted at step 5; resume with: subspace-lab train {run_dir} --resume"
    assert done.err.splitlines()[-1] == advice
    assert sl.Run.open(run_dir).manifest["finished"] is False
    assert command(*advice.partition("subspace-lab ")[2].split()).status == 0
    run = sl.Run.open(run_dir)
    assert run.manifest["finished"] is True
    assert run.metrics["step"].tolist() == list(range(12))


def test_ctrl_c_elsewhere(run_dir: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sl.Run, "verify", pressed)
    assert command("verify", run_dir) == Outcome(130, "", "interrupted\n")


def test_a_mistake_of_ours_and_one_that_is_asked_for_keep_their_traceback(
    run_dir: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(sl.Run, "verify", broken)
        with pytest.raises(RuntimeError, match="a bug"):
            command("verify", run_dir)
    monkeypatch.setenv("SUBSPACE_LAB_TRACEBACK", "1")
    with pytest.raises(sl.RunError, match="does not exist"):
        command("verify", run_dir / "none")


def test_the_console_script_prints_what_is_absent_as_a_note(tmp_path: Path) -> None:
    write_run(tmp_path / "run", noise({"blocks.0.w.weight": (6, 9)}), steps=2, keep="stats")
    script = Path(sys.executable).with_name("subspace-lab")
    done = subprocess.run([script, "recommend", tmp_path / "run"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr == (
        "note: keep='stats' holds no bases: no stale energy, no angles and no curvature; those rows are absent\n"
    )
    assert " any " in done.stdout
