"""Angles between captures against scipy's and those of random gradients, on runs with known gradients."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.linalg import subspace_angles
from torch import Tensor

from subspace_lab.analysis.angle_histograms import _histogram, angle_histograms
from subspace_lab.runs import RunError
from tests.runs_by_hand import noise, write_run

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
