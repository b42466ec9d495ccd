"""Plans against planted rank, drift and noise; budgets against brute force and the bytes of a real state."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pandas as pd
import pytest
import torch

import subspace_lab as sl
from subspace_lab.analysis.budget import Choice, fit_ranks, state_bytes
from tests.analysis.test_everything import planted
from tests.runs_by_hand import noise, write_run

ABOVE, BELOW = "blocks.0.up_proj.weight", "blocks.0.down_proj.weight"


def signal_and_noise(tmp_path) -> sl.Run:
    """Two layers of one shape: rank 8 above noise, and nothing but noise."""
    S = torch.linalg.qr(torch.randn(32, 8, generator=torch.Generator().manual_seed(0))).Q

    def at(step: int) -> dict[str, torch.Tensor]:
        draw = torch.Generator().manual_seed(step)
        signal = 10 * S @ torch.randn(8, 64, generator=draw)
        return {ABOVE: signal + torch.randn(32, 64, generator=draw), BELOW: torch.randn(32, 64, generator=draw)}

    run = write_run(tmp_path / "run", at)
    sl.analysis.energy(run, ranks=(2, 4, 8, 16))
    return run


@pytest.mark.parametrize("turn", [0.2, 0.4, 0.7])
def test_a_walk_turns_as_far_as_the_planted_space_did_over_the_interval(tmp_path, turn):
    """By ``turn`` radians over the oldest age that is measured, 40 steps; half is kept up to 0.72."""
    run = write_run(tmp_path / "run", planted(rank=4, half_life=40 * (np.pi / 4) / turn), steps=12)
    sl.analysis.energy(run, ranks=(4,), lags=(1, 2, 4))
    (layer,) = sl.recommend(run).layers
    assert (layer.rule, layer.update_interval) == ("walk", 40)
    assert layer.walk_step == pytest.approx(turn, rel=0.1)


def test_a_space_that_turns_faster_than_was_measured_is_jumped(tmp_path):
    run = write_run(tmp_path / "run", planted(rank=4, half_life=5.0))
    (layer,) = sl.recommend(run).layers
    assert (layer.rule, layer.walk_step, layer.above_noise) == ("jump", None, True)


@pytest.mark.parametrize(("half_life", "rule"), [(45.0, "walk"), (5.0, "jump")])
def test_fast_bases_take_the_place_of_walks_and_jumps(tmp_path, half_life, rule):
    """Ranks and intervals stay, a walk is as long, counted in cosines; the bulk is all but r/m of the energy."""
    run = write_run(tmp_path / "run", planted(rank=4, half_life=half_life, strength=1e3), steps=12)
    sl.analysis.energy(run, ranks=(4,), lags=(1, 2, 4))
    ((plain,), (fast,)) = (sl.recommend(run, fast=is_fast).layers for is_fast in (False, True))
    assert (plain.rule, plain.swaps) == (rule, None)
    assert (fast.rule, fast.walk_step, fast.recovery) == ({"walk": "trig_walk", "jump": "trig"}[rule], None, "scaled")
    assert (fast.rank, fast.update_interval, fast.retained) == (plain.rank, plain.update_interval, plain.retained)
    wanted = None if rule == "jump" else max(1, round(4 * (plain.walk_step / (np.pi / 2)) ** 2))
    assert fast.swaps == wanted
    shape = tuple(run.layers.loc[0, ["rows", "cols"]])
    method = {"trig_walk": "FastGrassWalk", "trig": "FastGrassJump"}[fast.rule]
    assert fast.state_bytes == sl.optim.memory_report({"up.weight": shape}, method, rank=4).optimizer


def test_a_budget_buys_more_rank_with_fast_bases(tmp_path):
    run = signal_and_noise(tmp_path)
    budget = 2 * state_bytes(32, 64, 4)
    ranks = [max(layer.rank for layer in sl.recommend(run, budget, fast=is_fast).layers) for is_fast in (False, True)]
    assert ranks[0] <= ranks[1]
    plan = sl.recommend(run, budget, fast=True)
    assert plan.state_bytes == sum(layer.state_bytes for layer in plan.layers) <= budget


def test_noise_is_jumped_and_its_bulk_recovered_and_a_pure_core_needs_no_recovery(tmp_path):
    above, below = sl.recommend(signal_and_noise(tmp_path)).layers
    assert (above.rank, above.rule, above.recovery) == (8, "walk", "none")
    assert (below.rank, below.rule, below.recovery) == (2, "jump", "scaled")
    assert above.bulk == pytest.approx(1 - above.fraction)
    assert not below.above_noise


def test_recovery_is_for_what_a_basis_of_the_intervals_age_leaves_outside(tmp_path):
    """An own basis of rank 4 holds a signal of rank 4 whole; one that is as old as the interval a half to all of it."""
    for half_life, recovery in ((1e9, "none"), (30.0, "scaled")):
        run = write_run(tmp_path / recovery, planted(rank=4, half_life=half_life, strength=1e3), steps=12)
        sl.analysis.energy(run, ranks=(4,), lags=(1, 2, 4))
        (layer,) = sl.recommend(run).layers
        assert layer.bulk < 0.01
        assert (layer.rule, layer.recovery) == ("walk", recovery)


@pytest.mark.parametrize(("signal", "recovery"), [(3.0, "scaled"), (1.0, "none"), (-1.0, "none")])
def test_recovery_takes_a_bulk_whose_signal_is_told_from_none(tmp_path, signal, recovery):
    """Two checkpoints of standard error 1 leave one of 0.71 for their mean: twice that is 1.41."""
    write_run(tmp_path / "run", noise({BELOW: (32, 64)}))
    run = sl.Run.open(tmp_path / "run", write=True)
    measured = {"layer": [BELOW] * 2, "part": ["bulk"] * 2, "signal": [signal - 0.5, signal + 0.5]}
    run.write_table("noise", pd.DataFrame({**measured, "signal_se": [1.0, 1.0], "signal_share": [0.2, 0.4]}))
    (layer,) = sl.recommend(run).layers
    assert layer.bulk > 0.1
    assert (layer.recovery, layer.bulk_signal) == (recovery, pytest.approx(0.3))


def test_a_space_that_stands_still_is_walked_by_the_smallest_step(tmp_path):
    run = write_run(tmp_path / "run", planted(rank=4, half_life=1e9, strength=1e3))
    (layer,) = sl.recommend(run).layers
    assert (layer.rule, layer.walk_step) == ("walk", pytest.approx(0.01, abs=0.02))


def test_a_budget_goes_to_the_layer_that_is_more_than_noise(tmp_path):
    run = signal_and_noise(tmp_path)
    smallest = state_bytes(32, 64, 2)
    plans = {extra: sl.recommend(run, budget_bytes=2 * smallest + extra) for extra in (0, 3000, 10**6)}
    assert [[layer.rank for layer in plan.layers] for plan in plans.values()] == [[2, 2], [4, 2], [8, 2]]
    for plan in plans.values():
        assert plan.state_bytes <= plan.budget_bytes
    assert plans[10**6].layers == sl.recommend(run).layers, "enough is as good as no budget"


@pytest.mark.parametrize(
    "change",
    [{"format": "other"}, {"format_version": 2}, {"layers": 5}, {"layers": [{"layer": "a", "rank": 8}]}],
)
def test_files_of_another_format_are_no_plan(tmp_path, change):
    plan = sl.recommend(signal_and_noise(tmp_path))
    plan.save(tmp_path / "plan.json")
    content = json.loads((tmp_path / "plan.json").read_text())
    for wrong in ({**content, **change}, {**content, "layers": [{**content["layers"][0], "rank": "8"}]}):
        (tmp_path / "plan.json").write_text(json.dumps(wrong))
        with pytest.raises(sl.RunError, match="is not a plan of this release; write one with"):
            sl.Plan.load(tmp_path / "plan.json")


def test_a_budget_below_the_minimum_states_it(tmp_path):
    run = signal_and_noise(tmp_path)
    minimum = 2 * state_bytes(32, 64, 2)
    with pytest.raises(sl.RunError, match=f"smallest measured ranks of all layers take {minimum:,}; give that"):
        sl.recommend(run, budget_bytes=minimum - 1)
    for wrong in (0, -1, True, float("nan"), float("inf"), "2GB", [1]):
        with pytest.raises(ValueError, match="budget_bytes must be a positive number"):
            sl.recommend(run, budget_bytes=wrong)


def test_ranks_under_a_budget_are_the_best_that_brute_force_finds():
    """Where every layer gains less from each further byte, greedy choices are optimal up to the last that fits."""
    rng = np.random.default_rng(0)
    choices = {}
    for layer in "abc":
        gains = np.cumsum(np.sort(rng.uniform(0.1, 1, 4))[::-1])
        choices[layer] = [Choice(rank, float(gain), 100 * rank) for rank, gain in zip((1, 2, 3, 4), gains, strict=True)]
    for budget in range(300, 1201, 100):
        ranks = fit_ranks(choices, budget)
        assert sum(100 * rank for rank in ranks.values()) <= budget
        gain = sum(choices[layer][rank - 1].gain for layer, rank in ranks.items())
        best = max(
            sum(choice.gain for choice in some)
            for some in itertools.product(*choices.values())
            if sum(choice.state_bytes for choice in some) <= budget
        )
        assert gain == pytest.approx(best)


def test_an_upgrade_may_skip_a_rank_that_gains_nothing():
    options = [Choice(1, 0.0, 100), Choice(2, 0.0, 200), Choice(3, 1.0, 300)]
    assert fit_ranks({"a": options}, 300) == {"a": 3}
    assert fit_ranks({"a": options}, 299) == {"a": 1}


def test_state_bytes_are_those_of_the_optimizer(tmp_path):
    run = write_run(tmp_path / "run", noise({"up.weight": (40, 16), "down.weight": (16, 40), "q.weight": (16, 16)}))
    plan = sl.recommend(run)
    model = torch.nn.ModuleDict({row.layer.removesuffix(".weight"): torch.nn.Linear(16, 16) for row in plan.layers})
    for name, shape in (("up", (40, 16)), ("down", (16, 40)), ("q", (16, 16))):
        model[name] = torch.nn.Linear(shape[1], shape[0], bias=False)
    optimizer = sl.optim.from_plan(model, plan)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    kept = sum(v.nbytes for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor))
    norms = 4 * sum(layer.recovery == "none" for layer in plan.layers)  # counted, and kept by recovery only
    assert kept == plan.state_bytes - norms


def test_the_table_begins_with_the_settings(tmp_path):
    plan = sl.recommend(signal_and_noise(tmp_path))
    table = plan.table()
    assert table.columns[:5].tolist() == ["layer", "rank", "rule", "update_interval", "walk_step"]
    assert set(table.columns) == set(plan.to_dict()["layers"][0])
    assert table["rank"].tolist() == [layer.rank for layer in plan.layers]


def test_plans_of_earlier_releases_have_no_standard_errors_and_are_read(tmp_path):
    plan = sl.recommend(signal_and_noise(tmp_path))
    content = plan.to_dict()
    for row in content["layers"]:
        for name in [name for name in row if name.endswith("_se")]:
            del row[name]
    (tmp_path / "plan.json").write_text(json.dumps(content))
    read = sl.Plan.load(tmp_path / "plan.json")
    assert [layer.rank for layer in read.layers] == [layer.rank for layer in plan.layers]
    assert all(layer.rank_se is None and layer.walk_step_se is None for layer in read.layers)


def test_split_batches_say_how_far_own_energies_count(tmp_path):
    """All signal: where the stale energies saturate; all noise: halfway to where the own ones do."""
    draw = torch.Generator().manual_seed(0)
    S = torch.linalg.qr(torch.randn(64, 16, generator=draw)).Q

    def at(step: int) -> dict[str, torch.Tensor]:
        draw = torch.Generator().manual_seed(step + 1)
        return {BELOW: 2 * S @ torch.randn(16, 64, generator=draw) + torch.randn(64, 64, generator=draw)}

    run = write_run(tmp_path / "run", at, steps=12)
    sl.analysis.energy(run, ranks=(2, 4, 8, 12, 16, 24))
    ranks = []
    for share in (1.0, 0.5, 0.0):
        measured = {"layer": [BELOW] * 2, "part": ["all", "bulk"], "signal": 1.0, "signal_se": 1.0}
        run.write_table("noise", pd.DataFrame({**measured, "signal_share": share}))
        ranks.append(sl.recommend(run).layers[0].rank)
    assert ranks == sorted(ranks, reverse=True)
    assert ranks[0] >= 15 > ranks[2]
