"""The command line: what it passes on and prints, and one line for each mistake."""

from __future__ import annotations

import pytest

from subspace_lab.experiments.study import StudyInterrupted
from subspace_lab.studies import grass_paper


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What the command asks for, in the place of doing it."""
    calls = []

    def note(out_dir, **arguments):
        calls.append((out_dir, arguments))
        return out_dir / "evidence.md"

    monkeypatch.setitem(vars(grass_paper), "regenerate", note)
    return calls


def test_what_it_passes_on(command, asked, tmp_path):
    outcome = command(
        "figures", tmp_path, "--profile", "cpu", "--only", "fig1,fig3", "tables", "--workers", 1, "--longer"
    )
    assert (outcome.status, outcome.err) == (0, "")
    assert asked == [
        (tmp_path, {"profile": "cpu", "only": ["fig1", "fig3", "tables"], "longer": True, "executor": "local",
                    "workers": 1, "slurm": None, "processes": None, "sharding": None, "recompute": False,
                    "draw_only": False, "pictures": None, "page": None})
    ]  # fmt: skip
    assert outcome.out.splitlines()[-1] == f"claims: {tmp_path / 'evidence.md'}"


def test_slurm_and_its_options(command, asked, tmp_path):
    words = ["--executor", "slurm", "--slurm.partition", "gpu", "--slurm.time", "60"]
    assert command("figures", tmp_path, "--profile", "paper", *words).status == 0
    ((_, given),) = asked
    assert (given["executor"], given["slurm"]) == ("slurm", {"partition": "gpu", "time": 60})


def test_ctrl_c_says_how_to_go_on(command, monkeypatch, tmp_path):
    def pressed(out_dir, **_):
        raise StudyInterrupted(out_dir)

    monkeypatch.setitem(vars(grass_paper), "regenerate", pressed)
    outcome = command("figures", tmp_path, "--profile", "cpu")
    assert (outcome.status, outcome.err) == (130, f"interrupted; the same command goes on with {tmp_path}\n")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--profile", "cpus"], "there is no profile 'cpus'; nearest: cpu (known: smoke, cpu, paper)"),
        (["--profile", "smoke", "--only", "fig9"], "there is no figure 'fig9'; nearest: fig3 "),
        (["--profile", "cpu", "--only", "fig9", "--dry-run"], "there is no figure 'fig9'; nearest: fig3 "),
        (["--profile", "paper", "--longer", "--dry-run"], "longer has no use with profile paper"),
        (["--profile", "cpu", "--dry-run", "--recompute"], "--recompute has no effect on --dry-run"),
        (["--profile", "cpu", "--dry-run", "--workers", "2"], "--workers has no effect on --dry-run"),
        (["--profile", "cpu", "--executor", "slrm"], 'Did you mean "slurm"?'),
        (["--profile", "cpu", "--slurm.time", "60"], "options of Slurm have no effect on executor='local'"),
        (
            ["--profile", "cpu", "--slurm.time", "60", "--dry-run"],
            "options of Slurm have no effect on executor='local'",
        ),
        (["--profile", "cpu", "--executor", "slurm"], "there is no Slurm here (no sbatch on the PATH); leave out"),
        (["--profile", "cpu", "--executor", "slurm", "--slurm.tim", "6", "--dry-run"], "nearest: time (known: "),
        ([], "--profile"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_one_line(command, words, line, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # where there is Slurm, too
    if "slurm" in words:
        pytest.importorskip("submitit")
    outcome = command("figures", tmp_path / "figures", *words)
    assert outcome.status == 2
    assert outcome.err.startswith("error:")
    assert line in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "figures").exists()


def test_dry_run_prints_and_begins_nothing(command, tmp_path):
    outcome = command("figures", tmp_path / "figures", "--profile", "cpu", "--only", "fig1", "--dry-run")
    lines = outcome.out.splitlines()
    assert (outcome.status, outcome.err) == (0, "")
    assert lines[0] == "# fig1: energy ratio"
    assert sum(not line.startswith("#") for line in lines) == 1  # the start of a search, on which all others depend
    assert sum(", seed " in line for line in lines) == 10 + 5 + 5  # the search, five seeds and five captured runs
    assert not (tmp_path / "figures").exists()


def test_a_dry_run_for_slurm_lists_the_commands_of_its_jobs(command, tmp_path):
    pytest.importorskip("submitit")
    words = ["figures", tmp_path / "figures", "--profile", "paper", "--only", "fig1", "--dry-run"]
    here = command(*words)
    there = command(*words, "--executor", "slurm", "--slurm.gres", "gpu:8", "--slurm.time", "600")
    first, _, rest = there.out.partition("\n")
    assert first == "# by Slurm, a job for every training, in which its command runs: --gres=gpu:8 --time=600"
    assert (there.status, rest) == (0, here.out)
