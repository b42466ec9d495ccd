"""``subspace-lab memory``."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import subspace_lab as sl
from tests.cli.helpers import Command

METHOD_NAMES = [
    "AdamW", "GrassWalk", "GrassJump", "SubTrack", "GaLore", "GoLore", "Fira", "LDAdam", "APOLLO", "FRUGAL",
    "OnlineSubspaceDescent", "RSO", "BAdam", "FastGrassWalk", "FastGrassJump", "DCTAdamW",
]  # fmt: skip


ROWS = [[name] for name in METHOD_NAMES]


def cells(line: str) -> list[int]:
    return [int(cell.replace(",", "")) for cell in line.split()[1:5]]


@pytest.mark.parametrize("width", [80, 120])
def test_memory_prints_exact_bytes_of_every_method(
    width: int, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    done = command("memory", "--preset", "llama-7b")
    assert (done.status, done.err) == (0, "")
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= width
    assert lines[:3] == [
        "llama-7b: 6,738,415,616 parameters in float32",
        "rank 1024 (published) for attention and MLP; embeddings, head, norms full-rank",
        "weights 26,953,662,464 bytes, gradients 26,953,662,464 bytes",
    ]
    table = {line.split()[0]: line for line in lines if line.split() and line.split()[0] in METHOD_NAMES}
    assert list(table) == METHOD_NAMES
    shapes = sl.training.parameter_shapes(sl.training.preset("llama-7b"))
    for name, line in table.items():
        report = sl.optim.memory_report(shapes, name, rank=1024)
        assert cells(line) == [report.states, report.bases, report.refresh_workspace, report.total]
    assert table["GaLore"].endswith("68%" if width == 120 else "72,885,772,556")
    assert table["GaLore"].split()[5:6] == (["72.886"] if width == 120 else [])


def test_memory_of_chosen_methods_ranks_and_dtypes(command: Command) -> None:
    arguments = ["--preset", "llama-2m", "--methods", "grass-walk", "adamw", "badam", "--weights-dtype", "bfloat16"]
    done = command("memory", *arguments, "--rank", 16, "--state-dtype", "bfloat16")
    assert done.status == 0
    assert "\nrank 16 for attention and MLP;" in done.out
    rows = {line.split()[0]: cells(line) for line in done.out.splitlines() if line.split()[:1] in ROWS}
    assert list(rows) == ["AdamW", "GrassWalk", "BAdam"]
    h, inner, vocabulary, blocks = 128, 352, 4096, 4
    linear, rest, num_rest = blocks * (4 * h * h + 3 * h * inner), 2 * vocabulary * h + 9 * h, 11
    total = linear + rest
    assert rows["AdamW"] == [4 * total + 4 * (num_rest + 28), 0, 0, 8 * total + 4 * (num_rest + 28)]
    assert rows["GrassWalk"][:2] == [
        blocks * (2 * 2 * 16 * (4 * h + 3 * inner) + 4 * 7) + 4 * rest + 4 * num_rest, 2 * blocks * 7 * h * 16
    ]  # fmt: skip
    assert rows["BAdam"][:3] == [4 * vocabulary * h, 0, 0]
    assert "rank 32 (a quarter of the width)" in command("memory", "--preset", "llama-2m").out


def test_memory_needs_neither_transformers_nor_a_model() -> None:
    """What it loads is torch, and all that it holds is far from the 27 GB of the weights."""
    code = """
import resource, sys
from subspace_lab.cli import app
app(["memory", "--preset", "llama-7b"], result_action="return_value")
print(sorted(sys.modules.keys() & {"transformers", "pandas", "matplotlib", "scipy"}))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2_000_000)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["[]", "True"]


def test_no_number_is_cut_on_a_narrow_terminal(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = []
    for columns in ("40", "80"):
        monkeypatch.setenv("COLUMNS", columns)
        tables.append(command("memory", "--preset", "llama-1b").out)
    assert tables[0] == tables[1]
    assert "…" not in tables[0]


def test_the_rank_is_spoken_of_where_there_is_one(command: Command) -> None:
    assert "rank" not in command("memory", "--preset", "llama-2m", "--methods", "BAdam").out
    out = command("memory", "--preset", "llama-2m", "--methods", "GaLore", "--rank", 999).out
    assert "\nrank 999 (128 at most) for attention and MLP;" in out


SHARDED = ["--preset", "llama-2m", "--methods", "GrassWalk", "--world", 16, "--per-node", 8]


@pytest.mark.parametrize("width", [80, 120])
def test_shardings_are_those_of_the_report(width: int, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    done = command("memory", *SHARDED, "--sharding", "all", "--intra", 100, "--inter", 10, "--accumulation", 4)
    assert (done.status, done.err) == (0, "")
    assert "…" not in done.out
    assert "\nrank 32 (a quarter of the width) for attention and MLP;" in done.out
    assert "\n16 processes, 8 per node\n" in done.out
    shapes = sl.training.parameter_shapes(sl.training.preset("llama-2m"))
    settings = {"world": 16, "per_node": 8, "accumulation": 4, "intra": 100, "inter": 10}
    adamw = sl.optim.sharding_report(shapes, "AdamW", **settings)
    walk = sl.optim.sharding_report(shapes, "GrassWalk", rank=32, **settings)
    lines = [line for line in done.out.splitlines() if line[:3] in {row.sharding for row in adamw}]
    assert len(lines) % 27 == 0
    for k, (row, other) in enumerate(zip(adamw, walk, strict=True)):
        alike, totals = lines[k], " ".join(lines[k + 27 :: 27]).replace("*", "").split("  ")
        numbers = [row.parameters, row.gradients, row.moved.within, row.moved.between]
        assert cells(alike) == pytest.approx(numbers, abs=0.51)
        assert f" {'excluded' if row.excluded else 'checked' if row.torch else 'formula'} " in alike
        for one in (row, other):
            assert f"{one.total / 1e9:.4g}, {one.seconds:.3g}" in [
                total.removeprefix(row.sharding).strip() for total in totals
            ]
    assert "it does not pay" not in done.out


def test_states_that_are_too_small_to_be_sharded_are_marked(command: Command) -> None:
    words = ["--preset", "llama-7b", "--rank", 4, "--methods", "GaLore", "--world", 16, "--per-node", 8]
    done = command("memory", *words, "--sharding", "NNG", "III")
    starred = [line.split() for line in done.out.splitlines() if line.startswith("NNG") and "*" in line]
    assert len(starred) == 1
    assert [cell.endswith("*") for cell in starred[0]] == [False, False, True, True]
    assert "*: sharding the states saves less than 5% of the device's bytes: it does not pay\n" in done.out


def test_shardings_and_bytes_as_json(command: Command) -> None:
    done = command("memory", *SHARDED, "--sharding", "III", "GGG", "--json")
    rows = json.loads(done.out)
    assert [(row["method"], row["side"], row["sharding"]) for row in rows] == [
        ("AdamW", "auto", "III"), ("AdamW", "auto", "GGG"), ("GrassWalk", "auto", "III"), ("GrassWalk", "auto", "GGG"),
        ("GrassWalk", "sharded", "III"), ("GrassWalk", "sharded", "GGG"),
    ]  # fmt: skip
    assert all(row["total"] == row["parameters"] + row["gradients"] + row["states"] for row in rows)
    whole = json.loads(command("memory", "--preset", "llama-2m", "--methods", "GaLore", "--json").out)
    assert [row["method"] for row in whole] == ["AdamW", "GaLore"]
    assert all(row["total"] > row["optimizer"] > 0 for row in whole)
