"""``subspace-lab safety``: what it prints, with which status, and what it imports."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from subspace_lab.cli.entry import app
from subspace_lab.cli.safety import _tell
from subspace_lab.studies.safety import study as studies
from subspace_lab.studies.safety.profiles import PROFILES
from tests.studies.safety import by_hand
from tests.studies.safety.studies import PLUGIN, TINY, Forked

AXES = ["--policy", "tiny", "--plugins", PLUGIN, "--threats", "clean", "--regimes", "adamw:lr=1e-2", "--steps", "2"]


def run(*words):
    app([str(word) for word in words], exit_on_error=False, print_error=False, result_action="return_value")


def test_list_shows_everything_and_imports_nothing_heavy():
    code = (
        "import sys\nfrom subspace_lab.cli.entry import app\napp(['safety', 'list'])\n"
        "assert not {'torch', 'transformers', 'pandas', 'numpy'} & set(sys.modules), sorted(sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    for word in ("safegrad", "train", "2508.07172", "codenames", "sentiment", "poison", "log_odds", "smollm"):
        assert word in ran.stdout


def test_a_dry_run_counts_the_jobs_and_writes_nothing(tmp_path, capsys):
    axes = [*AXES[:6], "--regimes", "adamw,badam", "--steps", "2"]
    run("safety", "run", tmp_path / "out", *axes, "--defenses", "none,counted,halved,safegrad", "--dry-run")
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "base: 1 job, 1 to come", "alignment: 1 job, 1 to come", "tuning: 5 jobs, 5 to come",
        "repair: 2 jobs, 2 to come", "evaluation: 9 jobs, 9 to come",
    ]  # fmt: skip
    assert lines[5].startswith("unsupported: safegrad under badam (1 cell): ")
    assert lines[-1] == "about 862 forward-backward passes, 862 of them to come"  # 600 + 250 + 2 * (4 + 2)
    assert not (tmp_path / "out").exists()


def test_the_smoke_profile_takes_the_passes_that_its_defenses_say(tmp_path, capsys):
    """Base 600, alignment 250, of 12 tunings a third with one pass in a step and the rest with two."""
    run("safety", "run", tmp_path / "out", "--profile", "smoke", "--dry-run")
    expected = 600 + 250 + 4 * 150 + 8 * 300
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"about {expected:,} forward-backward passes")


def test_run_report_and_verify(tmp_path, capsys, monkeypatch):
    executor = Forked()
    monkeypatch.setattr(studies, "executor_of", lambda *_, **__: executor)
    out = tmp_path / "out"
    monkeypatch.setenv("COLUMNS", "200")  # no heading goes over two lines
    monkeypatch.setitem(PROFILES, "tiny", TINY)
    run("safety", "run", out, "--profile", "tiny", "--threats", "clean", "--defenses", "none")
    printed = capsys.readouterr().out
    assert "attack success" in printed
    assert f"report: {out / 'report.html'}" in printed
    before = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    run("safety", "report", out)
    assert (out / "report.html").read_bytes() == before
    run("safety", "verify", out)
    assert capsys.readouterr().out.splitlines()[-1] == "no differences"
    table = pd.read_parquet(out / "results.parquet")
    table.assign(asr=0.5).to_parquet(out / "results.parquet")
    with pytest.raises(SystemExit) as error:
        run("safety", "verify", out)
    assert error.value.code == 1
    assert capsys.readouterr().out.count("\n") == 1


def test_the_headline_that_is_printed_is_that_of_the_report(capsys, monkeypatch):
    """A row per defense and threat by one judge; why a defense has no attack success is said."""
    monkeypatch.setenv("COLUMNS", "200")
    made = by_hand.tables(seeds=1, regimes=("adamw",))
    other = made.summary.assign(judge="prefix", asr=float("nan"))
    summary = pd.concat([made.summary, other], ignore_index=True)
    _tell(SimpleNamespace(tables=replace(made, summary=summary), path=Path("out")))
    lines = [line for line in capsys.readouterr().out.splitlines() if "sentiment" in line]
    assert len(lines) == len(made.summary)
    assert not any("prefix" in line for line in lines)
    assert sum("resta:gamma=1" in line and "no rate keeps the task" in line for line in lines) == 3
    assert sum("panacea" in line and "not supported" in line for line in lines) == 1
    row = made.summary.query("defense == 'none' and share == 0.3").iloc[0]
    wanted = rf"poison:share=0.3 +adamw +none +exact +{row['lr']:.3g} +{row['asr']:.3g} "
    assert any(re.search(wanted, line) for line in lines)


def test_without_a_cell_that_comes_to_its_end_the_status_is_one(tmp_path, monkeypatch):
    class Idle(Forked):
        def run(self, trials, watch):
            pass

    monkeypatch.setattr(studies, "executor_of", lambda *_, **__: Idle())
    with pytest.raises(SystemExit) as error:
        run("safety", "run", tmp_path / "out", *AXES)
    assert error.value.code == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--profile", "smok"], r"there is no profile 'smok'; nearest: smoke"),
        (["--defenses", "safegard"], r"there is no defense 'safegard'; nearest: safegrad"),
        (["--dry-run", "--retry"], r"--retry has no effect on --dry-run"),
        (["--dry-run", "--keep-weights", "none"], r"--keep-weights has no effect on --dry-run"),
        (["--slurm.time", "3"], r"options of Slurm have no effect"),
    ],
)
def test_bad_options_are_one_line(tmp_path, words, message):
    with pytest.raises(ValueError, match=message) as error:
        run("safety", "run", tmp_path / "out", *words)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
