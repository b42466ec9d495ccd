"""Planted signal and noise, and the energies by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import subspace_lab as sl

M, N, R = 12, 20, 2
COLUMNS = [
    "layer", "part", "rank", "parameters", "count", "micro_batch", "batch_size", "mean_energy", "energy_of_mean",
    "signal", "signal_se", "noise", "noise_scale", "noise_scale_se", "snr", "signal_share", "signal_share_se",
]  # fmt: skip


class Planted(nn.Module):
    """The gradient of ``weight`` on a batch is the mean of its examples."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(*shape, dtype=torch.float64))

    @staticmethod
    def loss(model: Planted, batch: Tensor) -> Tensor:
        return (batch * model.weight).flatten(1).sum(1).mean()


def planted(num_examples: int, *, strength: float, noise: float, spread: float = 0.0, seed: int = 0) -> Tensor:
    """Examples of one rank-R signal (plus a full-rank one of energy ``spread``) and noise of a given energy each."""
    draw = torch.Generator().manual_seed(seed)
    left, right = (torch.linalg.qr(torch.randn(size, R, generator=draw, dtype=torch.float64))[0] for size in (M, N))
    G = strength**0.5 * left @ right.mT / R**0.5
    E = torch.randn(M, N, generator=draw, dtype=torch.float64)
    E = E - left @ (left.mT @ E)
    G = G + spread**0.5 * E / E.norm()
    scatter = torch.randn(num_examples, M, N, generator=draw, dtype=torch.float64)
    return G + (noise / (M * N)) ** 0.5 * scatter


def parts_of(batch: Tensor, **settings) -> dict[str, dict]:
    table = sl.analysis.noise(Planted(M, N), Planted.loss, batch, "weight", rank=R, **settings)
    assert list(table.columns) == COLUMNS
    return {row["part"]: row for row in table.to_dict("records")}


@pytest.mark.parametrize("micro_batch", [1, 4])
def test_planted_signal_and_noise_are_found(micro_batch):
    """Signal 9 in the core and 1 in the bulk, noise 40 per example, evenly over all directions."""
    found = parts_of(planted(400, strength=9, spread=1, noise=40), micro_batch=micro_batch, batch_size=8)
    expected = {"all": (10, 40), "core": (9, 40 * R / M), "bulk": (1, 40 * (M - R) / M)}
    for part, (signal, noise) in expected.items():
        row = found[part]
        assert abs(row["signal"] - signal) < 4 * row["signal_se"] + 0.01, part
        assert row["signal_se"] < 0.15 * signal + 0.05
        assert row["noise"] == pytest.approx(noise, rel=0.05), part
        assert row["noise_scale"] == pytest.approx(noise / signal, rel=0.2), part
        assert row["snr"] == pytest.approx(8 * signal / noise, rel=0.2), part
        assert row["signal_share"] == pytest.approx(signal / (signal + noise / 8), rel=0.15), part


def test_a_bulk_that_is_noise_is_told_from_one_that_is_signal():
    noisy, signal = (parts_of(planted(100, strength=9, spread=s, noise=40))["bulk"] for s in (0, 3))
    assert abs(noisy["signal"]) < 4 * noisy["signal_se"]
    assert abs(noisy["signal_share"]) < 4 * noisy["signal_share_se"]
    assert signal["signal"] > 10 * signal["signal_se"]
    assert signal["signal_share"] > 0.85


def test_pure_noise_shows_no_signal_in_its_core():
    """The trap: the own top-r space of noise holds far more than r/m of it; here it holds nothing of the other half."""
    z = []
    for seed in range(30):
        row = parts_of(planted(16, strength=0, noise=1, seed=seed))["core"]
        z.append(row["signal"])
        assert row["noise"] == pytest.approx(R / M, rel=0.5)
    assert abs(np.mean(z)) < 4 * np.std(z) / 30**0.5


@pytest.mark.parametrize(("num_examples", "over"), [(12, 1.5), (60, 1.2)])
def test_estimates_are_unbiased_and_standard_errors_right(num_examples, over):
    """Over 100 draws. The jackknife of few micro-batches errs on the large side (Efron and Stein), never the other."""
    rows = [parts_of(planted(num_examples, strength=4, noise=30, seed=seed))["all"] for seed in range(100)]
    # The signal differs from draw to draw in its direction only, which the energy of all does not see.
    signals = np.array([row["signal"] for row in rows])
    noises = np.array([row["noise"] for row in rows])
    for values, truth in ((signals, 4), (noises, 30)):
        assert abs(values.mean() - truth) < 4 * values.std() / 100**0.5
    error = np.sqrt(np.mean([row["signal_se"] ** 2 for row in rows]))
    assert 0.85 * signals.std() < error < over * signals.std()


def test_energies_by_hand():
    """Of four numbers in eight examples: every other one in each half, and the formulas of two batch sizes."""
    batch = torch.randn(8, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    table = sl.analysis.noise(Planted(4), Planted.loss, batch)
    (row,) = table.to_dict("records")
    halves = [batch[0::2], batch[1::2]]
    small = np.mean([half.square().sum(1).mean() for half in halves])
    big = np.mean([half.mean(0).square().sum() for half in halves])
    signal = (4 * big - small) / 3
    noise = (small - big) / (1 - 1 / 4)
    assert row["layer"] == "model"
    assert row["part"] == "all"  # a vector has no core
    assert (row["mean_energy"], row["energy_of_mean"]) == (pytest.approx(small), pytest.approx(big))
    assert (row["signal"], row["noise"]) == (pytest.approx(signal, abs=1e-6), pytest.approx(noise))
    assert row["batch_size"] == 8
    assert table.attrs["examples"] == 8


def test_parts_add_up_and_the_core_is_of_the_other_half():
    batch = planted(24, strength=3, noise=10)
    found = parts_of(batch)
    for column in ("mean_energy", "energy_of_mean", "signal", "noise"):
        assert found["core"][column] + found["bulk"][column] == pytest.approx(found["all"][column], rel=1e-6), column
    halves = [batch[0::2], batch[1::2]]
    energies = []
    for own, other in (halves, halves[::-1]):
        S = torch.linalg.svd(other.mean(0))[0][:, :R]
        energies.append((S.mT @ own.mean(0)).square().sum())
    assert found["core"]["energy_of_mean"] == pytest.approx(float(np.mean(energies)), rel=1e-6)


def test_the_whole_model_is_the_sum_of_its_matrices_and_vectors():
    model = nn.Linear(5, 6).double()
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def loss(model, x):
        return model(x).square().sum(1).mean()

    whole = sl.analysis.noise(model, loss, x).set_index("part")
    layers = sl.analysis.noise(model, loss, x, ("weight", "bias")).set_index(["layer", "part"])
    assert set(layers.index) == {("weight", "all"), ("weight", "core"), ("weight", "bulk"), ("bias", "all")}
    for column in ("signal", "noise", "mean_energy"):
        both = layers.loc[("weight", "all"), column] + layers.loc[("bias", "all"), column]
        assert whole.loc["all", column] == pytest.approx(both, rel=1e-5)
        assert whole.loc["bulk", column] == pytest.approx(layers.loc[("weight", "bulk"), column], rel=1e-5)


def test_a_core_of_full_rank_leaves_nothing():
    table = sl.analysis.noise(Planted(3, 4), Planted.loss, torch.randn(8, 3, 4).double(), rank=5).set_index("part")
    assert abs(table.loc["bulk", "mean_energy"]) < 1e-20 * table.loc["all", "mean_energy"] + 1e-25


def test_no_signal_has_no_noise_scale():
    batch = torch.tensor([1.0, -1.0] * 6).double().repeat_interleave(2)[:, None]  # the average of each half is zero
    (row,) = sl.analysis.noise(Planted(1), Planted.loss, batch).to_dict("records")
    assert row["signal"] < 0
    assert math.isnan(row["noise_scale"])
    assert math.isnan(row["noise_scale_se"])


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"micro_batch": 2}, "has 8 examples; at micro_batch=2 it takes a multiple of 4, at least 12"),
        ({"micro_batch": 0}, "micro_batch must be"),
        ({"rank": 0}, "rank must be"),
        ({"batch_size": -1}, "batch_size must be"),
        ({"layers": "wieght"}, "nearest: weight"),
    ],
)
def test_faults(settings, match):
    with pytest.raises(ValueError, match=match):
        sl.analysis.noise(Planted(3, 4), Planted.loss, torch.ones(8, 3, 4), **settings)


def test_a_loss_that_is_a_sum_and_a_gradient_that_is_not_finite():
    batch = torch.ones(8, 3, 4).double()
    with pytest.raises(ValueError, match="not a mean"):
        sl.analysis.noise(Planted(3, 4), lambda m, b: (b * (m.weight + 1)).sum(), batch)
    with pytest.raises(ValueError, match="gradient of model is not finite"):
        sl.analysis.noise(Planted(3, 4), lambda m, b: m.weight.abs().sqrt().sum() + 0 * b.mean(), batch)


def test_dropout_is_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    with pytest.raises(ValueError, match="drops at random"):
        sl.analysis.noise(model, lambda m, x: m(x).mean(), torch.ones(8, 2))
