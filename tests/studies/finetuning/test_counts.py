"""How many trainings a dry run lists, the budget and the outlook announce and a call begins: one number."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from subspace_lab.experiments import study as engine
from subspace_lab.experiments.grid import Wanted
from subspace_lab.experiments.outcome import Outcome, write_outcome
from subspace_lab.experiments.study import Outlook
from subspace_lab.experiments.trial import Trial
from subspace_lab.studies.finetuning import out_dir, study
from subspace_lab.studies.finetuning.dry_run import plan_lines
from subspace_lab.studies.finetuning.profiles import PROFILES
from subspace_lab.studies.finetuning.trials import budget_lines


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Trial]:
    """The trials that are begun, in order; they end at once, the better the higher the rate is."""
    trials: list[Trial] = []

    def run(trials_dir: Path, todo: Sequence[Trial], *_: object, names: dict[str, str], **__: Any) -> None:
        trials.extend(todo)
        for trial in todo:
            (trials_dir / names[trial.hash]).mkdir(parents=True, exist_ok=True)
            metrics = {"eval_loss": 1 / trial.config["lr"]}
            write_outcome(trials_dir, names[trial.hash], Outcome("complete", attempts=1, metrics=metrics))

    monkeypatch.setattr(engine, "run_missing", run)
    monkeypatch.setattr(engine, "_conclude", lambda *_, **__: False)
    monkeypatch.setattr(study.gradients, "absorb", lambda *_: None)
    monkeypatch.setattr(study, "data_hash", lambda _: "0" * 64)
    monkeypatch.setattr(study.pages, "write", lambda *_: None)
    return trials


@pytest.mark.parametrize(
    ("name", "precision", "trainings", "steps"),
    [
        ("smoke", "bfloat16", 2 * 4 * (2 + 2) + 3 * 2, 2 * 4 * (2 * 2 + 2 * 4) + 3 * 2 * 4),
        ("cpu", "float32", 8 * (3 + 3) + 3 * 3, 8 * (3 * 30 + 3 * 60) + 9 * 60),
        ("cpu", "bfloat16", 2 * 8 * (3 + 3) + 3 * 3, 2 * 8 * (3 * 30 + 3 * 60) + 9 * 60),
        ("gpu", "float32", 2 * 8 * (3 + 5) + 3 * 3, 2 * 8 * (3 * 200 + 5 * 600) + 9 * 600),
    ],
)
def test_a_dry_run_a_budget_an_outlook_and_a_call_agree(
    name, precision, trainings, steps, tmp_path, begun, monkeypatch, capsys
):
    """By hand: tasks, methods, rates and evaluation seeds; then the captured seeds of three sources.

    In which precision the machine is faster decides on the second task in the cpu profile alone.
    """
    monkeypatch.setattr(out_dir, "faster_precision", lambda _: precision)
    seen: list[Outlook] = []
    real = engine.outlook
    monkeypatch.setattr(engine, "outlook", lambda *arguments: seen.append(real(*arguments)) or seen[-1])
    planned = [*plan_lines(tmp_path / "study", name)]
    assert not (tmp_path / "study").exists()
    study.fine_tune(tmp_path / "study", profile=name)
    said = capsys.readouterr().err.splitlines()
    total = f"in all {trainings} trainings, {steps} steps: about "
    (place,) = (place for place, line in enumerate(said) if line.startswith(total))
    assert [line.removeprefix("# ") for line in planned[: place + 1]] == said[: place + 1]
    counted = [re.fullmatch(r".*: (\d+) trainings of (\d+) steps", line) for line in said[:place]]
    assert sum(int(one[1]) for one in counted if one) == trainings
    assert sum(bool(re.match(r"# \w+ on .*, seed \d+, \d+ steps", line)) for line in planned) == trainings
    assert [one.left for one in seen] == [len(begun)] == [trainings]
    assert len({trial.hash for trial in begun}) == trainings
    assert sum(trial.config["steps"] for trial in begun) == steps


def test_a_budget_by_hand():
    """In float32 a step takes 3.2 s, in bfloat16 2.4 s, and a training 25 s more, by the cpu profile."""
    config = dataclasses.replace(PROFILES["cpu"].config, precision="bfloat16")
    profile = dataclasses.replace(PROFILES["cpu"], config=config)

    def wanted(number, steps, **factors):
        about = {"task": "sentiment", "source": "", "phase": "tune", **factors}
        return [Wanted(Trial(about, "train", {"steps": steps}))] * number

    every = [*wanted(3, 30), *wanted(2, 60, phase="evaluate"), *wanted(1, 1, source="text", phase="evaluate")]
    assert budget_lines(every, profile) == [
        "sentiment, tuning: 3 trainings of 30 steps",
        "sentiment, evaluation: 2 trainings of 60 steps",
        "gradients, pretrained, on text: 1 training of 1 step",
        "in all 6 trainings, 211 steps: about 0.18 hours one after the other, at 2.4 s a step, and 25 s a training for "
        "loading and evaluation",
    ]
    assert pytest.approx(0.182333 * 3600, rel=1e-3) == 211 * 2.4 + 6 * 25


def test_each_method_is_tuned_on_a_seed_that_is_not_evaluated_and_evaluated_at_the_best_rate(tmp_path, begun):
    study.fine_tune(tmp_path / "study", profile="gpu")
    for task in ("sentiment", "arithmetic"):
        for method, rates in study.profile_named("gpu").rates.items():
            chosen = [one for one in begun if (one.factors["task"], one.factors["method"]) == (task, method)]
            chosen = [one for one in chosen if not one.factors["source"]]
            tuned = {
                (one.factors["lr"], one.factors["seed"], one.factors["steps"])
                for one in chosen
                if one.factors["phase"] == "tune"
            }
            assert tuned == {(rate, 1000, 200) for rate in rates}
            measured = [one for one in chosen if one.factors["phase"] == "evaluate"]
            assert [(one.factors["lr"], one.factors["seed"]) for one in measured] == [
                (max(rates), seed) for seed in range(5)
            ]
            rest = {one.config["lr_rest"] for one in chosen}
            assert rest == ({None} if method == "lora" else {3e-5})


def test_the_precision_of_a_directory_stays(tmp_path, begun, monkeypatch):
    monkeypatch.setattr(out_dir, "faster_precision", lambda _: "float32")
    study.fine_tune(tmp_path / "study", profile="cpu")
    first = len(begun)
    monkeypatch.setattr(out_dir, "faster_precision", lambda _: "bfloat16")
    study.fine_tune(tmp_path / "study", profile="cpu")
    assert len(begun) == first == 57
    assert {trial.config["precision"] for trial in begun} == {"float32"}


def test_what_goes_on_says_no_budget_and_what_is_repeated_does(tmp_path, begun, capsys):
    study.fine_tune(tmp_path / "study", profile="smoke")
    assert "in all 38 trainings" in capsys.readouterr().err
    study.fine_tune(tmp_path / "study", profile="smoke")
    assert capsys.readouterr().err == ""
    study.fine_tune(tmp_path / "study", profile="smoke", recompute=True)
    assert "in all 38 trainings" in capsys.readouterr().err
    assert len(begun) == 2 * 38
