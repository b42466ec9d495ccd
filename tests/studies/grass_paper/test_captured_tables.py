"""What is measured of captured runs, on runs with known gradients; angles against scipy's and random gradients."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.integrate import quad
from scipy.linalg import subspace_angles
from torch import Tensor

from subspace_lab.runs import RunError
from subspace_lab.studies.grass_paper import captured_tables
from subspace_lab.studies.grass_paper.captured_tables import _histogram, angle_histograms
from subspace_lab.studies.grass_paper.profiles import PROFILES
from tests.runs_by_hand import noise, write_run
from tests.studies.grass_paper.by_hand import Tables, records, table

SHAPES = {"blocks.0.up.weight": (24, 60), "blocks.1.up.weight": (24, 60), "blocks.0.down.weight": (40, 16)}


def still(step: int) -> dict[str, Tensor]:
    return {name: (step + 1) * G for name, G in noise(SHAPES)(0).items()}


def test_counts_are_those_of_scipys_angles(tmp_path: Path) -> None:
    """Both layers of a kind in one histogram, at lags in captures, where captures are 5 steps apart."""
    gradients = noise(SHAPES)
    table = angle_histograms(
        write_run(tmp_path / "run", gradients, steps=4, every=5, keep="full"), rank=6, lags=(1, 2), num_bins=8
    )
    assert set(table["lag_steps"]) == {5, 10}
    for (kind, m, lag), rows in table.groupby(["kind", "m", "lag_steps"]):
        cosines = []
        for name in (name for name in SHAPES if name.split(".")[2] == kind):
            bases = {
                step: np.linalg.svd(min(G := gradients(step)[name], G.T, key=len))[0][:, :6] for step in range(0, 20, 5)
            }
            cosines += [
                np.cos(subspace_angles(bases[step], bases[step + lag])) for step in bases if step + lag in bases
            ]
        counts, edges = np.histogram(np.concatenate(cosines), 8, (0, 1))
        assert m == {"up": 24, "down": 16}[kind]
        assert rows["count"].tolist() == counts.tolist()
        assert rows["bin_low"].tolist() == pytest.approx(edges[:-1])
        width = (rows["bin_high"] - rows["bin_low"]).to_numpy()
        assert (rows["density"] * width).sum() == pytest.approx(1)
        assert (rows["null_density"] * width).sum() == pytest.approx(1)
        assert (rows["density"] * width).tolist() == pytest.approx((counts / counts.sum()).tolist())


def test_gradients_of_noise_have_the_angles_of_random_subspaces(tmp_path: Path) -> None:
    table = angle_histograms(
        write_run(tmp_path / "run", noise({"a.weight": (32, 50)}), steps=12), rank=8, lags=1, num_bins=10
    )
    shares = table[["density", "null_density"]].cumsum() / 10
    assert (shares["density"] - shares["null_density"]).abs().max() < 1.36 / (11 * 8) ** 0.5  # Kolmogorov, Smirnov


def test_gradients_that_stay_have_cosines_of_one(tmp_path: Path) -> None:
    table = angle_histograms(write_run(tmp_path / "run", still, steps=3, keep="gram"), rank=4, lags=(1, 2), num_bins=10)
    last = table["bin_high"] == 1
    assert table.loc[last, "density"].tolist() == pytest.approx([10.0] * 4)
    assert not table.loc[~last, "count"].any()


def test_few_directions_are_compared_with_the_null_of_few(tmp_path: Path) -> None:
    """Gradients of rank 1 have one angle, whose law is that of lines, whatever rank was asked for."""

    def thin(step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(step)
        return {"a.weight": torch.randn(20, 1, generator=generator) @ torch.ones(1, 30)}

    run = write_run(tmp_path / "run", thin, steps=3, keep="full")
    asked, lines = angle_histograms(run, rank=5, lags=1), angle_histograms(run, rank=1, lags=1)
    assert asked["count"].sum() == 2
    assert asked["null_density"].tolist() == lines["null_density"].tolist()
    assert set(asked["rank"]) == {5}


def test_a_captured_nan_is_left_out(tmp_path: Path) -> None:
    def broken(step: int) -> dict[str, Tensor]:
        gradients = still(step)
        return gradients if step != 1 else {name: G * float("nan") for name, G in gradients.items()}

    table = angle_histograms(write_run(tmp_path / "run", broken, steps=3, every=1), rank=4, lags=(1, 2))
    assert set(table["lag_steps"]) == {2}


@pytest.mark.parametrize(
    ("keep", "steps", "wrong", "error", "says"),
    [
        ("stats", 3, {}, RunError, "keep='gram'"),
        ("gram", 1, {}, RunError, "no two captures"),
        ("gram", 3, {"rank": 24}, ValueError, "smaller rank"),
        ("gram", 3, {"rank": 0}, ValueError, "rank"),
        ("gram", 3, {"lags": 0}, ValueError, "lag"),
        ("gram", 3, {"num_bins": 0}, ValueError, "num_bins"),
    ],
)
def test_bad_input_ends_in_one_line(
    tmp_path: Path, keep: str, steps: int, wrong: dict[str, int], error: type[Exception], says: str
) -> None:
    run = write_run(tmp_path / "run", noise({"a.weight": (24, 24)}), steps=steps, keep=keep)
    with pytest.raises(error, match=says) as caught:
        angle_histograms(run, **wrong)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_the_null_of_angles_is_that_of_the_dimensions_of_each_pair() -> None:
    """Wachter's density of cosines, ``sqrt(4 a (1 - a) - c^2) / (pi a (1 - c^2))`` at a = r/m, integrated by scipy."""
    edges = np.linspace(0, 1, 5)
    pairs = [np.full(16, 0.1), np.full(32, 0.3), np.array([0.3] * 8 + [0.9] * 24)]
    found = _histogram("q_proj", 128, 10, 2, pairs, edges)
    assert found["count"].tolist() == [16, 40, 0, 24]
    assert found["density"].tolist() == pytest.approx([0.8, 2.0, 0.0, 1.2])
    expected = np.zeros(4)
    for r in (16, 32, 32):
        a = r / 128
        end = 2 * math.sqrt(a * (1 - a))
        for place, (low, high) in enumerate(itertools.pairwise(edges)):
            share, _ = quad(
                lambda c, a=a, end=end: math.sqrt(max(end**2 - c**2, 0)) / (math.pi * a * (1 - c**2)),
                min(low, end), min(high, end),
            )  # fmt: skip
            expected[place] += r * share
    assert found["null_density"].tolist() == pytest.approx((expected / (80 * 0.25)).tolist(), rel=1e-6)


OF_A_RUN = {f"blocks.{depth}.up.weight": (16, 40) for depth in range(3)} | {
    "blocks.0.down.weight": (48, 12), "blocks.1.down.weight": (24, 24),
}  # fmt: skip


class Added(Tables):
    """A store that keeps what is added, and has the runs in a directory."""

    def __init__(self, profile: Any, trials_dir: Path) -> None:
        super().__init__(profile)
        self.trials_dir = trials_dir

    def add(self, name: str, rows: pd.DataFrame) -> None:
        self.tables[name] = rows


def test_captured_runs_are_measured_at_the_ranks_of_the_profile(tmp_path: Path) -> None:
    """The median width is 16: shares of 2, 4 and 8 are ranks 8, 4 and 2; the methods' rank is 5; tangents are at 4."""
    cpu = PROFILES["cpu"]
    profile = dataclasses.replace(cpu, config=dataclasses.replace(cpu.config, rank=5), shares=(2, 4, 8, 64))
    gradients = noise(OF_A_RUN)
    write_run(tmp_path / "captured-adamw_x", gradients, steps=6, every=10, keep="gram")
    store = Added(profile, tmp_path)
    rows = table("cell method seed captured", ("captured-adamw_x", "adamw", 3, True), ("x", "adamw", 0, False))
    captured_tables.absorb(store, rows)  # type: ignore[arg-type]
    energies, tangents, angles = (store.read(f"captured_{name}") for name in ("energy", "tangent", "angles"))
    for rows in (energies, tangents, angles):
        assert {*records(rows, "cell method seed")} == {("captured-adamw_x", "adamw", 3)}
    assert set(energies["rank"]) == {1, 2, 4, 5, 8}
    assert set(tangents["rank"]) == {4}
    assert set(tangents["index"]) == set(range(4))
    assert {*records(angles, "rank lag_steps")} == {(5, 10), (5, 40)}  # one and four captures; there are no sixteen
    G = {name: each.numpy() for name, each in gradients(20).items()}
    sigma = np.linalg.svd(G["blocks.2.up.weight"], compute_uv=False)
    rows = energies.query("step == 20 and kind == 'up' and depth == 2")
    for rank, ratio, m, n, fixed in records(rows, "rank ratio m n null_isotropic"):
        assert ratio == pytest.approx(math.sqrt((sigma[:rank] ** 2).sum() / (sigma**2).sum()), rel=1e-5)
        assert (m, n, fixed) == (16, 40, pytest.approx(rank / 16))
    S = np.linalg.svd(gradients(10)["blocks.2.up.weight"].numpy())[0][:, :4]
    X = G["blocks.2.up.weight"].astype(float)
    derivative = np.linalg.svd(-2 * (X - S @ (S.T @ X)) @ (X.T @ S), compute_uv=False)
    rows = tangents.query("step == 20 and kind == 'up' and depth == 2").sort_values("index")
    assert set(rows["lag_steps"]) == {10}
    assert rows["singular_value"].tolist() == pytest.approx(derivative.tolist(), rel=1e-4)
    assert rows["normalized"].tolist() == pytest.approx((derivative / (X**2).sum()).tolist(), rel=1e-4)


def test_twenty_values_of_the_tangent_are_kept(tmp_path: Path) -> None:
    write_run(tmp_path / "run", noise({"blocks.0.up.weight": (100, 100)}), steps=2, keep="gram")
    store = Added(PROFILES["cpu"], tmp_path)
    captured_tables.absorb(store, table("cell method seed captured", ("run", "rso", 0, True)))  # type: ignore[arg-type]
    assert sorted(store.read("captured_tangent")["index"]) == [*range(20)]
    assert set(store.read("captured_tangent")["rank"]) == {25}
    assert store.read("captured_angles").empty  # of AdamW only
    assert (PROFILES["cpu"].rank, PROFILES["paper"].rank) == (16, 512)
