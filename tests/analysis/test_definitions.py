"""Findings, nulls and plans of gradients whose numbers are known by hand."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import subspace_lab as sl
from subspace_lab.analysis.budget import Choice, fit_ranks, state_bytes
from subspace_lab.analysis.loss.trace import trace_estimate
from subspace_lab.analysis.significance import above_chance, above_noise
from subspace_lab.numerics import null_noise, null_noise_margin, null_tangent
from tests.runs_by_hand import noise, write_run

SIDE = 8


def with_ratio(ratio: float) -> torch.Tensor:
    """A gradient of which the first direction holds that share of the norm."""
    weak = ((1 / ratio**2 - 1) / (SIDE - 1)) ** 0.5
    return torch.diag(torch.tensor([1.0] + [weak] * (SIDE - 1)))


def told(run: sl.Run, **options) -> dict[str, sl.analysis.Finding]:
    sl.analysis.analyze(run, **options)
    return {finding.title.split()[0]: finding for finding in sl.analysis.findings(run)}


def test_the_interval_of_a_trend_is_students_at_95_percent(tmp_path):
    """Five layers that change by known numbers from the first to the last third."""
    changes = np.array([0.02, 0.05, -0.01, 0.04, 0.03])

    def at(step: int) -> dict[str, torch.Tensor]:
        third = step // 20
        return {f"stem{i}.w.weight": with_ratio(0.6 + change * third / 2) for i, change in enumerate(changes)}

    trend = told(write_run(tmp_path / "run", at, steps=6), ranks=(1,))["Trend"]
    expected = stats.ttest_1samp(changes, 0).confidence_interval(0.95)
    assert trend.numbers["training_change"] == pytest.approx(changes.mean(), rel=1e-4)
    assert trend.numbers["low"] == pytest.approx(expected.low, rel=1e-3)
    assert trend.numbers["high"] == pytest.approx(expected.high, rel=1e-3)
    assert trend.numbers["falling"] == 1
    assert f"95 % interval {expected.low:+.3f} to {expected.high:+.3f}" in trend.text
    assert [trend.numbers[name] for name in ("early", "middle", "late")] == pytest.approx([0.6, 0.613, 0.626], rel=1e-4)


@pytest.mark.parametrize("first", [0, 3])
def test_the_change_over_depth_is_from_the_first_to_the_last_block(tmp_path, first):
    """Two kinds along lines of known slopes, one of them in some of the blocks only."""

    def at(step: int) -> dict[str, torch.Tensor]:
        flat = {f"blocks.{first + i}.q.weight": with_ratio(0.5 + 0.03 * i) for i in range(5)}
        return flat | {f"blocks.{first + i}.v.weight": with_ratio(0.8 - 0.05 * i) for i in range(1, 4)}

    trend = told(write_run(tmp_path / "run", at, steps=3), ranks=(1,))["Trend"]
    assert trend.numbers["depth_change"] == pytest.approx((4 * 0.03 - 2 * 0.05) / 2, rel=1e-3)
    low, high = stats.ttest_1samp([0.12, -0.10], 0).confidence_interval(0.95)
    depth = trend.text.partition("From the first to the last block")[2]
    assert [float(x) for x in re.findall(r"[-+]\d+\.\d+", depth)] == pytest.approx([0.01, low, high], abs=1.1e-3)


@pytest.mark.parametrize("order", [("b", "c", "a"), ("a", "b", "c"), ("c", "a", "b")])
def test_the_largest_and_smallest_kinds_are_those_of_the_values(tmp_path, order):
    names = [f"blocks.{i}.{kind}.weight" for i in range(2) for kind in "abc"]
    run = write_run(tmp_path / "run", noise(dict.fromkeys(names, (8, 12))), steps=5)
    sl.analysis.analyze(run)
    table = run.table("curvature")
    values = dict(zip(order, (0.3, 0.2, 0.1), strict=True))
    table["normalized"] = table["kind"].astype(str).map(values).astype("float32") / (1 + table["index"])
    run.write_table("curvature", table)
    (found,) = [finding for finding in sl.analysis.findings(run) if finding.title.startswith("Curvature")]
    assert f"largest for {order[0]} (0.30) and smallest for {order[2]} (0.10)" in found.text
    assert found.numbers["normalized"] == pytest.approx(0.2, rel=1e-4)
    shown = int(table["index"].max()) + 1
    assert found.numbers["evenness_early"] == pytest.approx(1 / shown, rel=1e-4)
    assert found.numbers["evenness_late"] == pytest.approx(1 / shown, rel=1e-4)


def test_core_and_drift_are_means_of_the_tables(tmp_path):
    names = [f"blocks.{i}.w.weight" for i in range(3)]
    run = write_run(tmp_path / "run", noise(dict.fromkeys(names, (8, 12))), steps=4)
    found = told(run, ranks=(2,), rank=2, lags=(1, 2))
    energy, angles = run.table("energy"), run.table("angles")
    own, stale = energy[energy["basis"] == "own"], energy[energy["basis"] == "stale"]
    layers = own.groupby("layer", observed=True)["fraction"].mean()
    core, drift = found["Core"].numbers, found["Drift"].numbers
    assert [core["fraction"], core["lowest"], core["highest"]] == pytest.approx(
        [layers.mean(), layers.min(), layers.max()], rel=1e-5
    )
    assert core["null_noise"] == pytest.approx(null_noise(2, 8, 12), rel=1e-5)
    assert core["null_isotropic"] == pytest.approx(2 / 8, rel=1e-5)
    previous = angles[angles["comparison"] == "previous"]
    for name in ("overlap", "null_overlap", "mean_deg"):
        assert drift[name] == pytest.approx(float(previous[name].mean()), rel=1e-5)
    assert drift["lag_steps"] == 10
    by_age = stale.groupby("lag_steps")["fraction"].mean()
    assert [drift["stale_fraction"], drift["oldest_fraction"]] == pytest.approx([by_age[10], by_age[20]], rel=1e-5)
    spread = previous.groupby("layer", observed=True)["overlap"].mean().std(ddof=0)
    assert f"(± {spread:.2f} over layers)" in found["Drift"].text


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("shape", [(40, 12), (12, 40)])
def test_nulls_are_those_of_the_oriented_shape(tmp_path, shape, side):
    """Also where the basis lies on the longer side."""
    m, n = shape if side == "left" else shape[::-1]
    run = write_run(tmp_path / "run", noise({"a.w.weight": shape}), steps=3, side=side, keep="full")
    curvature = sl.analysis.curvature(run, rank=4, top=3)
    expected = null_tangent(4, m, n, 3)
    for _, rows in curvature.groupby("step"):
        assert rows["null_noise"].tolist() == pytest.approx(list(expected), rel=1e-5)
    energy = sl.analysis.energy(run, ranks=(4,), lags=(1,))
    assert energy["null_noise"].tolist() == pytest.approx([null_noise(4, 12, 40)] * len(energy), rel=1e-5)
    assert energy["null_isotropic"].tolist() == pytest.approx([4 / m] * len(energy), rel=1e-5)
    assert (set(energy["m"]), set(energy["n"])) == ({m}, {n})


def test_on_the_longer_side_no_rank_is_above_the_singular_values(tmp_path):
    run = write_run(tmp_path / "run", noise({"a.w.weight": (40, 12)}), steps=2, side="left", keep="full")
    curvature = sl.analysis.curvature(run, rank=20, top=3)
    assert curvature["null_noise"].tolist() == pytest.approx(list(null_tangent(12, 40, 12, 3)), rel=1e-5)
    before, now = (run.gradient(step, "a.w.weight").double().numpy() for step in run.steps)
    S = np.linalg.svd(before, full_matrices=False)[0]
    core = S.T @ now
    sigma = np.linalg.svd(-2 * (now - S @ core) @ core.T, compute_uv=False)[:3]
    assert curvature["singular_value"].tolist() == pytest.approx(sigma.tolist(), rel=1e-4)
    assert curvature["normalized"].tolist() == pytest.approx((sigma / np.sum(now**2)).tolist(), rel=1e-4)


@pytest.mark.parametrize("samples", [[3.0, 5.0], [1.0, 2.0, 4.0, 9.0]])
def test_the_trace_and_its_error_are_those_of_the_samples(samples):
    """Products that make the i-th sample what is asked for."""
    left = list(samples)

    def product(z: torch.Tensor) -> torch.Tensor:
        return z * (left.pop(0) / float(z @ z))

    V = torch.eye(20, 2, dtype=torch.float64)
    trace, error = trace_estimate(product, V, np.array([7.0, 0.5]), len(samples), 3)
    assert trace == pytest.approx(7.5 + np.mean(samples), rel=1e-12)
    assert error == pytest.approx(stats.sem(samples), rel=1e-12)


@pytest.mark.parametrize("large_first", [True, False])
def test_a_rank_gains_energy_times_weights(tmp_path, large_first):
    """The larger layer gains less energy from its next rank, but of four times the weights at twice the bytes."""

    def planted(m: int, n: int, second: float) -> torch.Tensor:
        G = torch.zeros(m, n)
        G[0, 0], G[1, 1] = 1.0, second
        return G + 0.02 * torch.randn(m, n, generator=torch.Generator().manual_seed(m)) * 16 / m

    shapes = {"large.weight": (32, 64, 0.65), "small.weight": (16, 32, 0.8)}
    order = list(shapes) if large_first else list(shapes)[::-1]
    gradients = {name: planted(*shapes[name]) for name in order}
    run = write_run(tmp_path / "run", lambda step: gradients, steps=2)
    sl.analysis.energy(run, ranks=(1, 2))
    table = run.table("energy").query("basis == 'own' and step == 0").set_index(["layer", "rank"])
    excess = table["fraction"] - table["null_noise"]
    gains = {name: excess[name, 2] - excess[name, 1] for name in shapes}
    assert 1.05 < gains["small.weight"] / gains["large.weight"] < 1.9
    smallest = sum(state_bytes(m, n, 1) for m, n, _ in shapes.values())
    for budget, ranks in ((smallest + 4 * (32 + 128), (2, 1)), (smallest + 4 * (16 + 64), (1, 2))):
        plan = {layer.layer: layer.rank for layer in sl.recommend(run, budget_bytes=budget).layers}
        assert (plan["large.weight"], plan["small.weight"]) == ranks


def test_a_plan_is_worked_out_from_a_table_by_hand(tmp_path):
    """Rank, interval, walk, recovery and their evidence from a curve of half-life 23.5 and two saturating shares."""
    name = "blocks.0.q.weight"
    write_run(tmp_path / "run", noise({name: (16, 64)}), steps=6)
    run = sl.Run.open(tmp_path / "run", write=True)
    fractions = {2: 0.60, 4: 0.88, 8: 0.94}
    signal = {2: 0.5, 4: 0.8, 8: 0.8}  # above chance, of a fresh basis
    kept = {age: np.exp(-((age / 30) ** 1.5)) for age in (10, 20, 40)}
    rows = []
    for step in run.steps:
        for rank, fraction in fractions.items():
            common = {"step": step, "layer": name, "depth": 0, "kind": "q", "rank": rank, "m": 16, "n": 64,
                      "null_isotropic": rank / 16, "null_noise": null_noise(rank, 16, 64)}  # fmt: skip
            rows.append({**common, "basis": "own", "basis_step": step, "lag_steps": 0, "fraction": fraction})
            for age, share in kept.items():
                if step >= age:
                    rows.append({
                        **common,
                        "basis": "stale",
                        "basis_step": step - age,
                        "lag_steps": age,
                        "fraction": rank / 16 + share * signal[rank] * (1 - rank / 16),
                    })
    table = pd.DataFrame(rows)
    table["ratio"] = table["fraction"] ** 0.5
    run.write_table("energy", table.astype({"layer": "category", "kind": "category", "basis": "category"}))
    (plan,) = sl.recommend(run).layers
    excess = {rank: fraction - null_noise(rank, 16, 64) for rank, fraction in fractions.items()}
    assert max(excess.values()) == excess[4]
    stale = 2 + 2 * (0.9 * 0.8 - 0.5) / (0.8 - 0.5)
    assert plan.rank == math.ceil(stale) == 4
    assert plan.excess == pytest.approx(excess[4], rel=1e-5)
    assert (plan.fraction, plan.bulk) == (pytest.approx(0.88, rel=1e-5), pytest.approx(0.12, rel=1e-5))
    assert plan.null_noise == pytest.approx(null_noise(4, 16, 64), rel=1e-5)
    assert (plan.update_interval, plan.bound, plan.rank_bound) == (23, "", "")
    assert plan.retained == pytest.approx(np.exp(-((23 / 30) ** 1.5)), rel=1e-3)
    assert plan.walk_step == pytest.approx(np.arcsin(np.sqrt((1 - plan.retained) * (1 - 4 / 16))), rel=1e-3)
    assert (plan.rule, plan.recovery, plan.above_noise) == ("walk", "scaled", True)
    assert plan.state_bytes == 4 * (16 * 4 + 2 * 4 * 64 + 1)
    errors = (plan.update_interval_se, plan.retained_se, plan.walk_step_se)
    assert errors == pytest.approx((0, 0, 0), abs=1e-2), "all steps are alike"
    assert plan.rank_se == pytest.approx(0.05 * stale, rel=0.1), "that of the model"


@pytest.mark.parametrize("count", [1, 9])
@pytest.mark.parametrize(("by", "told"), [(0.999, False), (1.001, True)])
def test_energy_is_told_from_noise_by_the_margin_of_as_many_gradients(count, by, told):
    null = null_noise(4, 16, 40)
    row = {"layer": "a", "rank": 4, "m": 16, "n": 40, "null_noise": null}
    table = pd.DataFrame([{**row, "fraction": null + by * null_noise_margin(4, 16, 40, count)}] * count)
    assert above_noise(table, "layer").tolist() == [told]


@pytest.mark.parametrize(("by", "told"), [(0.999, False), (1.001, True)])
def test_an_overlap_is_told_from_chance_by_four_errors_of_random_ones(by, told):
    """Their standard deviation is simulated, and the closed form lies within its error."""
    rng = np.random.default_rng(0)
    m, r, count = 24, 6, 5
    bases = np.linalg.qr(rng.standard_normal((8000, m, r)))[0]
    overlaps = (bases[:, :r, :] ** 2).sum((1, 2)) / r
    scatter = (1 - r / m) * (2 / ((m - 1) * (m + 2))) ** 0.5
    assert scatter == pytest.approx(overlaps.std(), rel=0.03)
    overlap = r / m + by * 4 * scatter / count**0.5
    assert above_chance(pd.DataFrame({"overlap": [overlap] * count, "null_overlap": [r / m] * count}), m) == told


def test_bytes_of_a_state_stop_at_full_rank_and_upgrades_are_paid_by_the_byte():
    assert state_bytes(4, 9, 100) == state_bytes(4, 9, 4) == 4 * (16 + 72 + 1)
    dear = [Choice(1, 0.0, 100), Choice(2, 10.0, 1100)]
    cheap = [Choice(1, 0.0, 100), Choice(2, 9.0, 200)]
    assert fit_ranks({"dear": dear, "cheap": cheap}, 1200) == {"dear": 1, "cheap": 2}
    assert fit_ranks({"dear": dear, "cheap": cheap}, 1300) == {"dear": 2, "cheap": 2}


def measured(run: sl.Run, name: str, fractions: dict[int, float]) -> None:
    rows = [
        {"step": step, "layer": name, "depth": 0, "kind": "q", "rank": rank, "m": 16, "n": 64, "basis": "own",
         "basis_step": step, "lag_steps": 0, "null_isotropic": rank / 16, "null_noise": null_noise(rank, 16, 64),
         "fraction": fraction, "ratio": fraction**0.5}
        for step in run.steps for rank, fraction in fractions.items()
    ]  # fmt: skip
    run.write_table("energy", pd.DataFrame(rows).astype(dict.fromkeys(("layer", "kind", "basis"), "category")))


@pytest.mark.parametrize(("share", "rank"), [(0.5, 8), (0.8, 6), (0.899, 5), (0.901, 4)])
def test_a_rank_is_saturated_at_nine_tenths_of_the_largest_excess(tmp_path, share, rank):
    """Linearly between the measured ranks, and rounded up."""
    run = write_run(tmp_path / "run", noise({"blocks.0.q.weight": (16, 64)}), steps=2)
    measured(run, "blocks.0.q.weight", {r: null_noise(r, 16, 64) + e for r, e in {4: 0.3 * share, 8: 0.3}.items()})
    assert [layer.rank for layer in sl.recommend(run).layers] == [rank]


@pytest.mark.parametrize(("factor", "recovery"), [(1.99, "none"), (2.01, "scaled")])
def test_a_bulk_is_recovered_from_two_errors_of_its_mean_signal(tmp_path, factor, recovery):
    """Four checkpoints, of errors 3, 1, 1 and 1: the error of the mean is the root of 12 over 4."""
    name = "blocks.0.q.weight"
    run = write_run(tmp_path / "run", noise({name: (16, 64)}), steps=2)
    measured(run, name, {4: 0.6})
    error = 12**0.5 / 4
    signal = factor * error + np.array([-0.5, 0.5, 0.1, -0.1])
    noises = {"layer": [name] * 4, "part": ["bulk"] * 4, "signal": signal, "signal_se": [3.0, 1, 1, 1]}
    run.write_table("noise", pd.DataFrame({**noises, "signal_share": [0.1, 0.2, 0.3, 0.4]}))
    (layer,) = sl.recommend(run).layers
    assert (layer.recovery, layer.bulk_signal) == (recovery, pytest.approx(0.25))
