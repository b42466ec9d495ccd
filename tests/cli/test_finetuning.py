"""The command line: what it passes on and prints, and one line for each mistake."""

from __future__ import annotations

import pytest

from subspace_lab.experiments.study import StudyInterrupted
from subspace_lab.studies import finetuning


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What the command asks for, in the place of doing it."""
    calls = []

    def note(out_dir, **arguments):
        calls.append((out_dir, arguments))
        return out_dir / "finetuning.md"

    monkeypatch.setitem(vars(finetuning), "fine_tune", note)
    return calls


def test_what_it_passes_on(command, asked, tmp_path):
    outcome = command("finetuning", tmp_path, "--profile", "cpu", "--workers", 1, "--page", tmp_path / "page.md")
    assert (outcome.status, outcome.err) == (0, "")
    assert asked == [
        (tmp_path, {"profile": "cpu", "executor": "local", "workers": 1, "slurm": None, "processes": None,
                    "sharding": None, "recompute": False, "pictures": None,
                    "page": tmp_path / "page.md", "draw_only": False})
    ]  # fmt: skip
    lines = [f"figures: {tmp_path}", f"tables: {tmp_path / 'tables'}", f"claims: {tmp_path / 'finetuning.md'}"]
    assert outcome.out.splitlines() == lines


def test_ctrl_c_says_how_to_go_on(command, monkeypatch, tmp_path):
    def pressed(out_dir, **_):
        raise StudyInterrupted(out_dir)

    monkeypatch.setitem(vars(finetuning), "fine_tune", pressed)
    outcome = command("finetuning", tmp_path, "--profile", "cpu")
    assert (outcome.status, outcome.err) == (130, f"interrupted; the same command goes on with {tmp_path}\n")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--profile", "cpus"], "there is no profile 'cpus'; nearest: cpu (known: smoke, cpu, gpu)"),
        (["--profile", "cpus", "--dry-run"], "there is no profile 'cpus'; nearest: cpu (known: smoke, cpu, gpu)"),
        (["--profile", "smoke", "--dry-run", "--recompute"], "--recompute has no effect on --dry-run"),
        (["--profile", "smoke", "--dry-run", "--draw-only"], "--draw-only has no effect on --dry-run"),
        (["--profile", "smoke", "--dry-run", "--workers", "2"], "--workers has no effect on --dry-run"),
        (["--profile", "smoke", "--dry-run", "--page", "p.md"], "--page has no effect on --dry-run"),
        (["--profile", "smoke", "--workers", "0"], "workers must be a whole number of at least 1"),
        (["--profile", "smoke", "--slurm.time", "6"], "options of Slurm have no effect on executor='local'"),
        (["--profile", "cpu", "--executor", "slurm", "--dry-run"], "Slurm would train elsewhere; take profile gpu"),
        ([], "--profile"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_one_line(command, words, line, tmp_path):
    outcome = command("finetuning", tmp_path / "study", *words)
    assert outcome.status == 2
    assert outcome.err.startswith("error:")
    assert line in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "study").exists()


def test_dry_run_prints_and_begins_nothing(command, tmp_path):
    outcome = command("finetuning", tmp_path / "study", "--profile", "smoke", "--dry-run")
    lines = outcome.out.splitlines()
    assert (outcome.status, outcome.err) == (0, "")
    assert lines[0] == "# sentiment, tuning: 8 trainings of 2 steps"
    assert sum(not line.startswith("#") for line in lines) == 2 * 4 + 6  # first rates and captured runs are known
    assert sum(", seed " in line for line in lines) == 38
    assert not (tmp_path / "study").exists()


def test_a_command_of_a_dry_run_trains_what_it_says(command, tmp_path, monkeypatch):
    from subspace_lab import training

    outcome = command("finetuning", tmp_path / "study", "--profile", "smoke", "--dry-run")
    printed = [line.split() for line in outcome.out.splitlines() if not line.startswith("#")]
    for words in (line for line in printed if "lora" in line[2]):
        asked = []
        monkeypatch.setattr(training, "train", lambda run_dir, config, *, resume, asked=asked: asked.append(config))
        monkeypatch.setattr(training, "stored_config", lambda _: training.TrainConfig(every=None))
        assert command(*words[1:]).status == 0
        (config,) = asked
        assert (config.task, config.adapter, config.adapter_rank, config.lr_rest) == (
            words[words.index("--task") + 1], "lora", 8, None,
        )  # fmt: skip
