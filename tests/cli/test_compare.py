"""The command line: what it prints in 80 columns, and one line for each mistake."""

import re

import pytest

from subspace_lab.studies.optimizers import compare
from subspace_lab.training import TrainConfig
from tests.cli.helpers import TINY
from tests.studies.optimizers.conftest import LRS, METHODS, SETTINGS, by_label


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    """A comparison of two methods, with a learning rate that does and one that diverges."""
    path = tmp_path_factory.mktemp("finished") / "sweep"
    return compare(path, METHODS, lrs=LRS, seeds=2, config=TrainConfig(**SETTINGS, data=str(world)), workers=2)


@pytest.fixture
def words(world):
    """The settings of the finished comparison."""
    options = {**SETTINGS, "data": world}
    return [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]


def test_it_prints_the_table_in_80_columns(command, words, finished, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    grid = ["--methods", "grasswalk,adamw", "--lrs", "1e-3,1e20", "--seeds", 2]
    outcome = command("compare", finished.path, *grid, *words)
    assert (outcome.status, outcome.err) == (0, "")
    out = outcome.out
    lines = out.splitlines()
    table, rest = lines[: lines.index("")], lines[lines.index("") + 1 :]
    assert max(map(len, table)) <= 80
    assert max(len(line) for line in rest if not line.startswith(("tables:", "report:", "diverged:"))) <= 80
    heads = [" ".join(line.split()) for line in table[:2]]
    assert heads == ["method lr held-out state peak step refresh tokens", "MB MB ms % k"]
    cells = [line.split() for line in table[2:]]
    rows = finished.table.to_dict("records")
    assert [cell[0] for cell in cells] == [row["method"] for row in rows]
    for cell, row in zip(cells, rows, strict=True):
        assert cell[1:5] == ["0.001*", f"{row['eval_loss']:.3f}", "±", f"{row['eval_sd']:.3f}"]
        assert cell[5:7] == [f"{row['state_bytes'] / 1e6:.2f}", f"{row['peak_bytes'] / 1e6:.0f}"]
        assert cell[7] == f"{row['step_s'] * 1000:.1f}"
        assert cell[8] == f"{row['refresh_share'] * 100:.1f}"
    assert "* at the end of its grid: a better learning rate may lie beyond" in rest
    row = by_label(finished.results).loc["adamw_lr1e+20_seed1"]
    assert f"diverged: {row['cell']} ({row['reason']})" in rest
    assert rest[-2:] == [
        f"tables: {finished.path / 'results.parquet'}, table.csv, table.tex",
        f"report: {finished.path / 'report.html'}",
    ]


def test_a_wide_terminal_has_the_gaps(command, words, finished, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    grid = ["--methods", "grasswalk", "adamw", "--lrs", "1e-3", "--seeds", 1]
    out = command("compare", finished.path, *grid, *words).out
    assert out.splitlines()[0].split()[3:6] == ["state", "formula", "peak"]
    assert out.splitlines()[0].split()[-2:] == ["train", "gap"]
    row = finished.table.loc[1]
    assert f" {row['state_bytes'] / 1e6:.2f} {row['state_bytes_formula'] / 1e6:.2f} " in " ".join(out.split())
    assert f"{row['gap']:+.3f} [{row['gap_low']:+.3f}, {row['gap_high']:+.3f}]" in out


def test_where_no_cell_came_to_its_end_the_status_says_so(command, words, tmp_path):
    grid = ["--methods", "adamw,badam", "--lrs", "1e20", "--seeds", 1]
    outcome = command("compare", tmp_path / "sweep", *grid, *words)
    assert outcome.status == 1
    rest = outcome.out.splitlines()[outcome.out.splitlines().index("") + 1 :]
    assert rest[0] == "no trial is complete, so that there is nothing to compare"
    assert rest[1].startswith("trials that diverged or failed are repeated with --retry")
    for line, label in zip(rest[2:4], ("adamw_lr1e+20_seed0", "badam_lr1e+20_seed0"), strict=True):
        assert re.match(rf"diverged: {re.escape(label)}-[0-9a-f]{{12}} \(at step", line)


def test_a_training_without_captures_is_not_sent_to_the_analysis(command, world, tmp_path):
    words = " ".join(TINY).replace("--every 3", "--every none").split()
    outcome = command("train", tmp_path / "run", "--data", world, *words)
    assert (outcome.status, outcome.out) == (0, "")
    assert not (tmp_path / "run" / "snapshots").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "graswalk", "--lrs", "1e-3"], "no optimizer is called 'graswalk'; nearest: GrassWalk"),
        (["--methods", ",", "--lrs", "1e-3"], "methods is empty"),
        (["--methods", "adamw", "--lrs", ","], "lrs is needed for a grid"),
        (["--methods", "adamw", "--lrs", "1e-3,x"], "lrs must be positive numbers, got 'x'"),
        (["--methods", "adamw", "--lrs", "-1e-3"], "lrs must be positive numbers, got -0.001"),
        (["--methods", "adamw", "--lrs", "1e-3", "--seeds", 0], "seeds must be a whole number of at least 1"),
        (["--methods", "adamw", "--lrs", "1e-3", "--seeds", 1.5], "1.5"),
        (["--methods", "adamw", "--lrs", "1e-3", "--preset", "llama-3m"], "no preset 'llama-3m'; nearest: llama-"),
        (["--methods", "adamw", "--lrs", "1e-3", "--lr", "1e-3"], "lr=0.001 has no use in a comparison"),
        (["--methods", "adamw", "--lrs", "1e-3", "--executor", "slum"], "slum"),
        (["--methods", "adamw", "--lrs", "1e-3", "--data", "/nowhere.txt"], "/nowhere.txt"),
        (["--methods", "adamw", "--lrs", "1e-3", "--slurm.time", 3], "options of Slurm have no effect"),
        (["--methods", "adamw"], "lrs"),
    ],
)
def test_a_mistake_is_one_line(command, tmp_path, arguments, message):
    outcome = command("compare", tmp_path / "sweep", *arguments)
    assert (outcome.status, outcome.out) == (2, "")
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "sweep").exists()
