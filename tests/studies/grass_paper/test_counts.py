"""How many trainings a dry run lists, an estimate announces and a call begins: one number, whatever the profile."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from subspace_lab.studies.grass_paper import making
from subspace_lab.studies.grass_paper.estimate import Estimate, estimate, in_words
from subspace_lab.studies.grass_paper.plan import plan_lines, tokens_of
from subspace_lab.studies.grass_paper.profiles import PROFILES
from subspace_lab.studies.grass_paper.quantities import COLUMNS
from subspace_lab.studies.grass_paper.store import Store
from subspace_lab.studies.optimizers.cells import Cell
from subspace_lab.studies.optimizers.tables import RESULTS


def ended(cells: Sequence[Cell], status: str = "complete") -> pd.DataFrame:
    """Rows of the table of cells, with losses that make the second learning rate the best."""
    rows = pd.DataFrame([
        {"cell": cell.name, "method": cell.method, "lr": cell.lr, "seed": cell.seed, "status": status, "wall_s": 7.0,
         "eval_loss": abs(cell.lr - 1e-3)}
        for cell in cells
    ])  # fmt: skip
    unused = {name: "" if kind == "str" else 0 for name, kind in RESULTS.items() if name not in rows}
    return rows.assign(**unused)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """The cells that are begun, in the order in which they are; they end at once, and nothing is measured or drawn."""
    cells: list[Cell] = []

    monkeypatch.setattr(making, "train_cells", lambda _dir, todo, *_, **__: cells.extend(todo))
    monkeypatch.setattr(making, "absorb", lambda store, todo: store.add("cells", ended(todo)))
    monkeypatch.setattr(making, "_absorb_all", lambda *_: None)
    monkeypatch.setattr(making, "_conclude", lambda *_, **__: None)
    monkeypatch.setattr(making, "_tell_left", lambda *_: None)
    monkeypatch.setattr(making, "load_tokens", lambda _: type("Tokens", (), {"hash": "0" * 64}))
    monkeypatch.setattr(making.pages, "write", lambda *_: None)
    return cells


def check(path: Path, name: str, only: list[str] | None, begun: list[Cell], monkeypatch: pytest.MonkeyPatch) -> int:
    """Compare all three, trainings and tokens, and return how many trainings there are."""
    *_, last = plan_lines(path, name, only=only)
    counted = re.fullmatch(r"# (\d+) trainings, (\S+) T tokens, .*", last)
    assert counted
    estimated: list[Estimate] = []
    monkeypatch.setattr(making, "_announce", lambda estimate, _: estimated.append(estimate))
    making.regenerate(path, profile=name, only=only)
    assert [one.cells for one in estimated] == [len(begun)]
    assert len({cell.name for cell in begun}) == len(begun)
    assert int(counted[1]) == len(begun)
    assert float(counted[2]) == float(f"{sum(tokens_of(cell.config) for cell in begun) / 1e12:.3g}")
    return len(begun)


@pytest.mark.parametrize(
    ("name", "trainings"),
    [
        (
            "smoke",
            (18 + 3 + 4 + 5) * 2 + 2 + 4,
        ),  # captured: two of AdamW, one of the others
        ("cpu", (30 + 10 + 4 + 19) * (5 + 2) + 3 + 12),
        ("paper", (30 + 23 + 4 + 13) * (3 + 2) + 3 + 12),
    ],
)
def test_a_dry_run_an_estimate_and_a_call_agree(name, trainings, tmp_path, begun, monkeypatch):
    """By hand: cells of the ablation, methods that are none of them, random bases, settings of GrassWalk; captures."""
    assert check(tmp_path / "figures", name, None, begun, monkeypatch) == trainings


@pytest.mark.parametrize(
    ("only", "trainings"),
    [("refresh", 5 * 2), ("fig1", 2 + 2), ("relation", 5 * 2 + 5), ("random_bases", 8 * 2), ("sensitivity", 7 * 2),
     ("ackley", 0)],
)  # fmt: skip
def test_they_agree_on_single_figures(only, trainings, tmp_path, begun, monkeypatch):
    assert check(tmp_path / "figures", "smoke", [only], begun, monkeypatch) == trainings


def test_what_is_there_is_not_counted_again_and_what_failed_is(tmp_path, begun, monkeypatch):
    """Of ten trainings and the five captured runs, six are there, a diverged one among them, and two have failed."""
    path = tmp_path / "figures"
    making.regenerate(path, profile="smoke", only=["relation"])
    assert len(begun) == 15
    tuned, measured, captured = (begun[start : start + 5] for start in (0, 5, 10))
    table = pd.concat([ended(tuned), ended(measured[1:], "failed"), ended(captured[:1], "failed")])
    table.loc[table["cell"] == tuned[2].name, "status"] = "diverged"
    table.loc[table["cell"] == measured[1].name, "status"] = "complete"
    store = Store(path, PROFILES["smoke"], COLUMNS)
    store.write("cells", table.assign(wall_s=[1.0, 2.0, 3.0, 4.0, 50.0, 6.0, 7.0, 8.0, 90.0, 100.0]))
    found = estimate(store, ["relation"])
    assert (found.there, found.cells) == (6, 9)
    assert found.seconds == 9 * 6.5  # the median of what is in the table
    begun.clear()
    making.regenerate(path, profile="smoke", only=["relation"])
    assert len(begun) == 9


@pytest.mark.parametrize(
    ("seconds", "workers", "words"),
    [(178, 2, "about 89 seconds, 2 at a time"), (182, 2, "about 2 minutes, 2 at a time"),
     (5990, 1, "about 100 minutes, 1 at a time"), (6010, 1, "about 2 hours, 1 at a time"),
     (36_000, None, "about 10 hours one after the other; as many at a time as Slurm gives")],
)  # fmt: skip
def test_times_in_words(seconds, workers, words):
    assert in_words(seconds, workers) == words
