"""Several processes: what the commands of studies pass on and refuse, and every command that torchrun itself begins."""

from __future__ import annotations

import runpy
import sys
from contextlib import suppress
from typing import Any

import pytest

import subspace_lab as sl
from subspace_lab import studies, training
from subspace_lab.cli import app
from subspace_lab.cli.steps import measure
from subspace_lab.runs import Run
from tests.runs_by_hand import noise, write_run

COMMANDS = [name for name in app if not name.startswith("-")]
COMPARE = ["compare", "OUT", "--methods", "adamw", "--lrs", "1e-3", "--preset", "tiny", "--batch-size", 4]
STUDIES = {
    "compare": [*COMPARE, "--precision", "float32", "--data", "stdlib"],
    "figures": ["figures", "OUT", "--profile", "smoke"],
    "finetuning": ["finetuning", "OUT", "--profile", "smoke"],
    "safety": ["safety", "run", "OUT", "--profile", "smoke"],
}
DRY = ("figures", "finetuning", "safety")


@pytest.fixture
def at(command, tmp_path):
    """Runs a command line of `STUDIES` with more words in a directory of its own."""
    return lambda words, *more: command(*(tmp_path / "out" if word == "OUT" else word for word in words), *more)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "train"])
def test_one_of_the_processes_that_torchrun_began_says_so_and_all_end(name, command, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = STUDIES.get(name, [name, "OUT"])
    outcomes = []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        outcomes.append(command(*(tmp_path / "out" if word == "OUT" else word for word in words)))
    first, second = outcomes
    advice = " and give --processes 2" if name in {*STUDIES, "recommend"} else ""
    line = f"error: torchrun began 2 processes, and subspace-lab {name} is of one; leave torchrun out{advice}\n"
    assert (first.status, first.out, first.err) == (2, "", line)
    assert (second.status, second.out, second.err) == (0, "", "")
    assert not (tmp_path / "out").exists()


def test_a_training_is_of_all_of_them(command, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    asked = []
    monkeypatch.setattr(training, "train", lambda run_dir, *_, **__: asked.append(run_dir))
    monkeypatch.setattr(training, "stored_config", lambda _: training.TrainConfig(every=None))
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        assert command("train", tmp_path / "run", "--sharding", "fsdp").status == 0
    assert asked == [tmp_path / "run"] * 2


def test_studies_and_analyses_in_python_are_of_one_process(tmp_path, monkeypatch):
    run = Run.open(write_run(tmp_path / "run", noise({"blocks.0.w.weight": (6, 9)}), steps=1).path, write=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    out = tmp_path / "out"
    calls: list[Any] = [
        lambda: sl.compare(out, ["adamw"], lrs=[1e-3]),
        lambda: studies.grass_paper.regenerate(out, profile="smoke"),
        lambda: studies.finetuning.fine_tune(out, profile="smoke"),
        lambda: sl.safety.run(out, sl.safety.profile("smoke")),
        lambda: measure(run),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"^torchrun began this process as one of 2 \(WORLD_SIZE\), and studies"):
            call()
    assert not out.exists()


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--sharding", "fsdp"], "sharding='fsdp' has no effect on one process; give processes, or leave it out"),
        (["--processes", 2, "--sharding", "hsdp"], "a training of a study has one node; use sharding='fsdp'"),
        (["--processes", 3], "is not a multiple of the 3 processes"),
        (["--processes", 0], "processes must be a whole number of at least 1, got 0"),
        (["--processes", 2, "--workers", 2], "workers=2 has no use here: 2 processes share a training, one after"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_begun(at, name, more, line, tmp_path):
    outcome = at(STUDIES[name], *more)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert line in outcome.err
    assert not (tmp_path / "out").exists()


def test_without_a_check_a_plan_is_of_one_process(command, tmp_path):
    for more, name in ((["--processes", 2], "processes"), (["--sharding", "fsdp"], "sharding")):
        outcome = command("recommend", tmp_path, *more)
        assert outcome.status == 2
        assert outcome.err == f"error: --{name} has no effect without --check; leave it out\n"


@pytest.mark.parametrize("name", DRY)
def test_a_dry_run_says_which_trainings_are_shared(at, name, tmp_path):
    outcome = at(STUDIES[name], "--dry-run", "--processes", 2, "--sharding", "fsdp")
    assert (outcome.status, outcome.err) == (0, "")
    if name == "safety":  # the base and the alignment; tunings have looks at gradients
        assert "\n2 jobs by 2 processes each; 34 by one, since repairs, evaluations, defenses and looks" in outcome.out
        return
    lines = [line.split() for line in outcome.out.splitlines() if not line.startswith("#")]
    assert len(lines) > 1
    for words in lines:
        assert words[:5] == ["torchrun", "--standalone", "--nproc-per-node=2", "--no-python", "subspace-lab"]
        assert words[-2:] == ["--sharding", "fsdp"]
    assert not (tmp_path / "out").exists()


def test_the_package_is_the_command_line(monkeypatch, capsys):
    """So that torchrun may begin it by ``-m``."""
    monkeypatch.setattr(sys, "argv", ["subspace-lab", "--version"])
    with suppress(SystemExit):
        runpy.run_module("subspace_lab", run_name="__main__")
    assert capsys.readouterr().out.strip() == sl.__version__
