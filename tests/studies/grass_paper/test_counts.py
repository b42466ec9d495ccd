"""How many trainings a dry run lists, an outlook announces and a call begins: one number, whatever the profile."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from subspace_lab.experiments import study as engine
from subspace_lab.experiments.outcome import Outcome, write_outcome
from subspace_lab.experiments.study import Outlook
from subspace_lab.experiments.trial import Trial
from subspace_lab.studies.grass_paper import study
from subspace_lab.studies.grass_paper.dry_run import plan_lines
from subspace_lab.studies.grass_paper.out_dir import open_store
from subspace_lab.studies.grass_paper.profiles import PROFILES
from subspace_lab.training import TrainConfig


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Trial]:
    """The trials that are begun, in order; they end at once at losses that make the second learning rate the best."""
    trials: list[Trial] = []

    def run(trials_dir: Path, todo: Sequence[Trial], *_: object, names: dict[str, str], **__: Any) -> None:
        trials.extend(todo)
        for trial in todo:
            (trials_dir / names[trial.hash]).mkdir(parents=True, exist_ok=True)  # a complete trial has left something
            metrics = {"eval_loss": abs(float(str(trial.factors["lr"])) - 1e-3)}
            write_outcome(trials_dir, names[trial.hash], Outcome("complete", attempts=1, metrics=metrics))

    monkeypatch.setattr(engine, "run_missing", run)
    monkeypatch.setattr(engine, "_conclude", lambda *_, **__: False)
    monkeypatch.setattr(study, "absorb", lambda *_: None)
    monkeypatch.setattr(study, "load_tokens", lambda _: type("Tokens", (), {"hash": "0" * 64}))
    monkeypatch.setattr(study.pages, "write", lambda *_: None)
    return trials


def check(path: Path, name: str, only: list[str] | None, begun: list[Trial], monkeypatch: pytest.MonkeyPatch) -> int:
    """Compare all three, trainings and tokens, and return how many trainings there are."""
    *listed, last = plan_lines(path, name, only=only)
    counted = re.fullmatch(r"# (\d+) trainings, (\S+) T tokens, .*", last)
    assert counted
    assert sum(bool(re.match(r"# .*, seed \d+", line)) for line in listed) == int(counted[1])
    seen: list[Outlook] = []
    real = engine.outlook
    monkeypatch.setattr(engine, "outlook", lambda *arguments: seen.append(real(*arguments)) or seen[-1])
    study.regenerate(path, profile=name, only=only)
    assert [one.left for one in seen] == [len(begun)]
    assert len({trial.hash for trial in begun}) == len(begun)
    assert int(counted[1]) == len(begun)
    assert float(counted[2]) == float(f"{sum(TrainConfig.from_dict(one.config).tokens for one in begun) / 1e12:.3g}")
    return len(begun)


@pytest.mark.parametrize(
    ("name", "trainings"),
    [
        ("smoke", (18 + 3 + 4 + 5) * 2 + 2 + 4),  # captured: two of AdamW, one of the others
        ("cpu", (30 + 10 + 4 + 19) * (5 + 2) + 3 + 12),
        ("paper", (30 + 23 + 4 + 13) * (3 + 2) + 3 + 12),
    ],
)
def test_a_dry_run_an_outlook_and_a_call_agree(name, trainings, tmp_path, begun, monkeypatch):
    """By hand: cells of the ablation, methods that are none of them, random bases, settings of GrassWalk; captures."""
    assert check(tmp_path / "figures", name, None, begun, monkeypatch) == trainings


@pytest.mark.parametrize(
    ("only", "trainings"),
    [("refresh", 5 * 2), ("fig1", 2 + 2), ("relation", 5 * 2 + 5), ("random_bases", 8 * 2), ("sensitivity", 7 * 2),
     ("ackley", 0)],
)  # fmt: skip
def test_they_agree_on_single_figures(only, trainings, tmp_path, begun, monkeypatch):
    assert check(tmp_path / "figures", "smoke", [only], begun, monkeypatch) == trainings


def test_what_is_there_is_not_counted_again_and_what_failed_is(tmp_path, begun):
    """Of ten trainings and the five captured runs, six are there, a diverged one among them, and four have failed."""
    path = tmp_path / "figures"
    study.regenerate(path, profile="smoke", only=["relation"])
    assert len(begun) == 15
    tuned, measured, captured = (begun[start : start + 5] for start in (0, 5, 10))
    store = open_store(path, PROFILES["smoke"])
    gone = [*captured[1:], measured[0]]
    store.forget(gone)
    status = {store.cell_of(tuned[2]): "diverged"} | {store.cell_of(t): "failed" for t in (*measured[2:], captured[0])}
    table = store.results
    seconds = [float(place) for place in range(len(table))]
    store.write("results", table.assign(status=table["cell"].map(status).fillna("complete"), wall_s=seconds))
    names = ["relation"]
    found = engine.outlook(study.study_of(store.profile, "0" * 64), store, names, ("failed",))
    assert (found.there, found.left) == (6, 9)
    assert found.seconds == 9 * 4.5  # the median of what is in the table
    begun.clear()
    shutil.rmtree(path / "work")  # the tables are enough to go on
    study.regenerate(path, profile="smoke", only=names)
    assert len(begun) == 9


@pytest.mark.parametrize(
    ("seconds", "workers", "words"),
    [(178, 2, "about 89 seconds, 2 at a time"), (182, 2, "about 2 minutes, 2 at a time"),
     (5990, 1, "about 100 minutes, 1 at a time"), (6010, 1, "about 2 hours, 1 at a time"),
     (36_000, None, "about 10 hours one after the other; as many at a time as Slurm gives")],
)  # fmt: skip
def test_times_in_words(seconds, workers, words):
    assert Outlook(0, 1, seconds).in_words(workers) == words
