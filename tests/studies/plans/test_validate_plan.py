"""A plan trained against the default at equal state."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

import subspace_lab as sl
from subspace_lab.optim.planned_state import planned_bytes
from subspace_lab.studies.plans.validate_plan import gap_to, uniform_rank, validation
from subspace_lab.training import train
from tests.runs_by_hand import noise, write_run


def check_plan(run, plan, *, lrs=(1e-3,), seeds=2, **arguments):
    """What ``subspace-lab recommend --check`` does, but for the search of settings."""
    wanted = validation(run, plan, **arguments)
    return sl.compare(wanted.path, wanted.methods, lrs=lrs, seeds=seeds, config=wanted.config)


SHAPES = {"a.up.weight": (40, 16), "a.q.weight": (16, 16), "a.down.weight": (16, 40), "a.norm.weight": (16,)}


def planned_state(optimizer_of, shapes):
    """Bytes of the tensors that an optimizer keeps after a step of a model with these parameters."""
    model = torch.nn.Module()
    for name, shape in shapes.items():
        part = model
        for attribute in name.split(".")[:-1]:
            part = part._modules.setdefault(attribute, torch.nn.Module())
        part.register_parameter(name.split(".")[-1], torch.nn.Parameter(torch.zeros(shape)))
    optimizer = optimizer_of(model)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape)
    optimizer.step()
    tensors = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize(
    "captured", [("a.up.weight", "a.q.weight", "a.down.weight"), ("a.up.weight",), ("a.q.weight",)]
)
def test_the_default_has_no_fewer_state_bytes_than_the_plan_and_one_rank_less_would_have(tmp_path, captured):
    """Of everything that is trained: what was not captured is full-rank in the plan, and has a rank in the default."""
    run = write_run(tmp_path / "run", noise({name: SHAPES[name] for name in captured}))
    for ranks in ((1, 2), (3, 5), (4, 8)):
        sl.analysis.energy(run, ranks=ranks)
        plan = sl.recommend(run)
        planned = planned_state(lambda model, plan=plan: sl.optim.from_plan(model, plan, lr=1e-3), SHAPES)
        assert planned_bytes(SHAPES, plan.to_dict()) == planned
        rank = uniform_rank(SHAPES, plan)
        taken = [
            planned_state(lambda model, r=r: sl.optim.GrassWalk(sl.optim.param_groups(model, rank=r), lr=1e-3), SHAPES)
            for r in (rank - 1, rank)
            if r
        ]
        assert planned <= taken[-1]
        assert len(taken) == 1 or taken[0] < planned


def test_a_check_trains_both_at_the_same_rates_and_seeds_and_goes_on(tmp_path, settings):
    train(tmp_path / "run", settings(steps=6, every=2, lr=2e-3, update_interval=None, eval_every=None))
    run = sl.Run.open(tmp_path / "run", write=True)
    plan = sl.recommend(run)
    found = check_plan(run, plan, steps=3)
    assert set(found.results["method"]) == {"plan", "default", "adamw"}
    assert (found.results["status"] == "complete").all()
    assert len(found.results) == 6
    states = found.results.groupby("method")["state_bytes"].first()
    assert states["plan"] <= states["default"] < states["adamw"]
    assert (found.results["state_bytes"] == found.results["state_bytes_formula"]).all()
    losses = found.results.set_index(["method", "seed"])["eval_loss"]
    gaps = [losses["plan", seed] - losses["default", seed] for seed in (0, 1)]
    gap = gap_to(found.results)
    assert gap["gap"] == pytest.approx(sum(gaps) / 2)
    assert gap["gap_low"] < gap["gap"] < gap["gap_high"]
    again = check_plan(run, plan, steps=3)
    assert (again.results["attempts"] == 1).all()
    run.path.rename(tmp_path / "moved")
    run = sl.Run.open(tmp_path / "moved", write=True)
    moved = check_plan(run, plan, steps=3)
    assert moved.results["attempts"].tolist() == [1] * 6
    other = sl.Plan(plan.layers[:1], plan.steps)
    path = run.path / "check" / "plan.json"
    for one, held in ((other, path.read_text()), (plan, "{")):
        path.write_text(held)
        with pytest.raises(sl.RunError, match="holds the check of another plan; remove it to check this one"):
            check_plan(run, one, steps=3)


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
    assert gap_to(results)["gap"] == -0.5
    assert gap_to(results, "adamw")["gap"] == -2
