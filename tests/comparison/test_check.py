"""A plan trained against the default at equal state."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pytest

import subspace_lab as sl
from subspace_lab.analysis.budget import state_bytes
from subspace_lab.comparison.check import check_plan, gap_to, uniform_rank
from subspace_lab.training import train
from tests.runs_by_hand import noise, write_run


def test_the_default_has_no_fewer_state_bytes_than_the_plan_and_one_rank_less_would_have(tmp_path):
    run = write_run(tmp_path / "run", noise({"a.up.weight": (40, 16), "a.q.weight": (16, 16)}))
    for ranks in ((1, 2), (3, 5), (4, 8)):
        sl.analysis.energy(run, ranks=ranks)
        plan = sl.recommend(run)
        rank = uniform_rank(run, plan)
        taken = [state_bytes(16, 40, r) + state_bytes(16, 16, r) for r in (rank - 1, rank)]
        assert taken[0] < plan.state_bytes <= taken[1]


def test_a_check_trains_both_at_the_same_rates_and_seeds_and_goes_on(tmp_path, settings):
    train(tmp_path / "run", settings(steps=6, every=2, lr=2e-3, update_interval=None, eval_every=None))
    run = sl.Run.open(tmp_path / "run", write=True)
    plan = sl.recommend(run)
    found = check_plan(run, plan, lrs=(1e-3,), seeds=2, steps=3)
    assert set(found.results["method"]) == {"plan", "default", "adamw"}
    assert (found.results["status"] == "complete").all()
    assert len(found.results) == 6
    states = found.results.groupby("method")["state_bytes"].first()
    assert states["plan"] <= states["default"] < states["adamw"]
    losses = found.results.set_index(["method", "seed"])["eval_loss"]
    gaps = [losses["plan", seed] - losses["default", seed] for seed in (0, 1)]
    gap = gap_to(found)
    assert gap["gap"] == pytest.approx(sum(gaps) / 2)
    assert gap["gap_low"] < gap["gap"] < gap["gap_high"]
    again = check_plan(run, plan, lrs=(1e-3,), seeds=2, steps=3)
    assert (again.results["attempts"] == 1).all()
    other = sl.Plan(plan.layers[:1], plan.steps)
    path = run.path / "check" / "plan.json"
    for one, held in ((other, path.read_text()), (plan, "{")):
        path.write_text(held)
        with pytest.raises(sl.RunError, match="holds the check of another plan; remove it to check this one"):
            check_plan(run, one, lrs=(1e-3,), seeds=2, steps=3)


def test_a_run_that_was_captured_in_another_loop_cannot_be_trained_again(tmp_path):
    run = write_run(tmp_path / "run", noise({"up.weight": (6, 9)}))
    with pytest.raises(sl.RunError, match="was not trained by subspace-lab train, so that a plan"):
        check_plan(run, sl.recommend(run))


def test_arguments_that_were_refused_leave_no_check_behind(tmp_path, settings):
    """The next plan may be checked."""
    run = write_run(tmp_path / "run", noise({"a.up.weight": (40, 16)}))
    run.manifest["config"] = settings(steps=6, lr=2e-3, update_interval=None).resolved().to_dict()
    plan = sl.recommend(run)
    for one in (plan, sl.Plan(plan.layers, plan.steps + 1)):
        for wrong, message in ({"seeds": 0}, "seeds must be"), ({"steps": 0}, "steps must be"):
            with pytest.raises(ValueError, match=message):
                check_plan(run, one, **wrong)


def test_a_training_that_diverged_after_an_evaluation_is_not_in_the_gap():
    rows = [("plan", 0, "complete", 1.0), ("plan", 1, "diverged", 9.0), ("default", 0, "complete", 1.5),
            ("default", 1, "complete", 1.5), ("adamw", 0, "complete", 3.0)]  # fmt: skip
    results = pd.DataFrame(rows, columns=["method", "seed", "status", "eval_loss"]).assign(lr=1e-3)
    table = pd.DataFrame({"method": ["plan", "default", "adamw"], "lr": 1e-3})
    found = SimpleNamespace(results=results, table=table)
    assert gap_to(found)["gap"] == -0.5
    assert gap_to(found, "adamw")["gap"] == -2
