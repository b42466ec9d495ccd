"""How many trainings a dry run lists, an outlook announces and a call begins: one number, whatever the profile."""

from __future__ import annotations

import math
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
    """The trials that are begun, in order; they end at once, the better the higher both rates are."""
    trials: list[Trial] = []

    def run(trials_dir: Path, todo: Sequence[Trial], *_: object, names: dict[str, str], **__: Any) -> None:
        trials.extend(todo)
        for trial in todo:
            (trials_dir / names[trial.hash]).mkdir(parents=True, exist_ok=True)  # a complete trial has left something
            metrics = {"eval_loss": 1 / trial.config["lr"] / trial.config["lr_rest"]}  # so that searches go on
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
    counted = re.fullmatch(r"# at most (\d+) trainings, (\S+) T tokens, .*", last)
    assert counted
    assert sum(bool(re.match(r"# .*, seed \d+, \d+ steps", line)) for line in listed) == int(counted[1])
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
        ("smoke", (5 + 2) * (1 + 2) + (15 + 4 + 5) * (1 + 2) + 2 + 4),
        ("cpu", (13 + 2 + 1) * (10 + 5) + (25 + 4 + 17) * (5 + 5) + 5 + 12 + 9 * (10 + 3)),
        ("paper", (13 + 2 + 1) * (10 + 5) + (25 + 4 + 12) * (5 + 5) + 5 + 12 + 14 * (10 + 3)),
    ],
)
def test_a_dry_run_an_outlook_and_a_call_agree(name, trainings, tmp_path, begun, monkeypatch):
    """By hand: methods, two nulls and SVD with all parts, tuned over all settings; variants, of the ablation, random
    bases and settings of GrassWalk, which inherit; captures, all of AdamW and one of each other; the larger size.
    """
    assert check(tmp_path / "figures", name, None, begun, monkeypatch) == trainings


@pytest.mark.parametrize(
    ("only", "trainings"),
    [("refresh", 7 * 3), ("fig1", 3 + 2), ("relation", 7 * 3 + 5), ("random_bases", (2 + 6) * 3),
     ("sensitivity", (1 + 6) * 3), ("ackley", 0)],
)  # fmt: skip
def test_they_agree_on_single_figures(only, trainings, tmp_path, begun, monkeypatch):
    assert check(tmp_path / "figures", "smoke", [only], begun, monkeypatch) == trainings


def test_what_is_there_is_not_counted_again_and_what_failed_is(tmp_path, begun):
    """Of 21 trainings and the five captured runs, 17 are there, a diverged one among them, and four have failed."""
    path = tmp_path / "figures"
    study.regenerate(path, profile="smoke", only=["relation"])
    assert len(begun) == 26
    tuned, measured, captured = begun[:7], begun[7:12], begun[21:]
    store = open_store(path, PROFILES["smoke"])
    gone = [*captured[1:], measured[0]]
    store.forget(gone)
    status = {store.cell_of(tuned[2]): "diverged"} | {store.cell_of(t): "failed" for t in (*measured[2:], captured[0])}
    table = store.results
    seconds = [float(place) for place in range(len(table))]
    store.write("results", table.assign(status=table["cell"].map(status).fillna("complete"), wall_s=seconds))
    names = ["relation"]
    found = engine.outlook(study.study_of(store.profile, "0" * 64), store, names, ("failed",))
    assert (found.there, found.left) == (17, 9)
    assert found.seconds == 9 * 10  # the median of what is in the table
    begun.clear()
    shutil.rmtree(path / "work")  # the tables are enough to go on
    study.regenerate(path, profile="smoke", only=names)
    assert len(begun) == 9


def test_a_search_that_finds_the_best_early_trains_less_than_announced(tmp_path, begun, monkeypatch):
    """The start is the best: two neighbours of each rate, one of the highest beta2 and two of the warm-up, then all."""
    real = engine.run_missing

    def flat(trials_dir, todo, *_, names, **__):
        real(trials_dir, todo, names=names)
        for trial in todo:
            cost = sum(abs(math.log(trial.config[name] / best)) for name, best in (("lr", 3e-3), ("lr_rest", 1e-2)))
            fine = (trial.config["betas"][1] != 0.999) + (trial.config["warmup"] != 30)
            outcome = Outcome("complete", attempts=1, metrics={"eval_loss": cost + fine})
            write_outcome(trials_dir, names[trial.hash], outcome)

    monkeypatch.setattr(engine, "run_missing", flat)
    *_, last = plan_lines(tmp_path / "figures", "cpu", only=["fig1"])
    assert last.startswith("# at most 20 trainings, ")
    study.regenerate(tmp_path / "figures", profile="cpu", only=["fig1"])
    assert len(begun) == (1 + 2 + 2 + 1 + 2) + 5 + 5


@pytest.mark.parametrize(
    ("seconds", "workers", "words"),
    [(178, 2, "about 89 seconds, 2 at a time"), (182, 2, "about 2 minutes, 2 at a time"),
     (5990, 1, "about 100 minutes, 1 at a time"), (6010, 1, "about 2 hours, 1 at a time"),
     (36_000, None, "about 10 hours one after the other; as many at a time as Slurm gives")],
)  # fmt: skip
def test_times_in_words(seconds, workers, words):
    assert Outlook(0, 1, seconds).in_words(workers) == words
