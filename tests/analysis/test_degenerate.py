"""Gradients that determine no subspace, or one of fewer dimensions than asked for."""

import numpy as np
import pytest
import scipy.linalg
import torch

from subspace_lab import analysis
from tests.runs_by_hand import noise, write_run

NAME = "blocks.0.w.weight"


def test_a_gradient_of_zeros_has_no_basis(tmp_path):
    later = noise({NAME: (16, 40)})

    def gradients(step: int) -> dict[str, torch.Tensor]:
        return {NAME: torch.zeros(16, 40)} if step < 30 else later(step)

    tables = analysis.analyze(write_run(tmp_path / "run", gradients, steps=6), rank=4, lags=(1, 2))
    angles, stale = tables["angles"], tables["energy"].query("basis == 'stale'")
    assert angles["step"].to_list() == [40, 40, 50, 50]
    assert angles["reference_step"].to_list() == [30, 30, 40, 30], "the first basis is that of the first gradient"
    assert set(stale["basis_step"]) == {30, 40}
    assert set(tables["curvature"]["basis_step"]) == {30, 40}


@pytest.mark.parametrize("keep", ["full", "gram", "topk:6"])
def test_angles_are_between_directions_that_the_gradients_determine(tmp_path, keep):
    u = torch.randn(48, 2, generator=torch.Generator().manual_seed(1))

    def gradients(step: int) -> dict[str, torch.Tensor]:
        return {NAME: u @ torch.randn(2, 90, generator=torch.Generator().manual_seed(step))}

    table = analysis.angles(write_run(tmp_path / "run", gradients, keep=keep), rank=6)
    assert set(table["rank"]) == {6}
    np.testing.assert_allclose(table["overlap"], 1, atol=1e-5)
    np.testing.assert_allclose(table["null_overlap"], 2 / 48, rtol=1e-6)
    assert table["max_deg"].max() < 0.1


def test_ranks_of_a_spectrum_do_not_count_rounding(tmp_path):
    """Without that the effective rank of one direction is 1.2 for this shape, and more for larger ones."""
    u, v = torch.randn(512, 1), torch.randn(1, 800)
    table = analysis.spectrum_summary(write_run(tmp_path / "run", lambda _: {NAME: u @ v}, steps=1))
    for name in ("stable_rank", "effective_rank", "participation_ratio", "nuclear_rank"):
        assert table[name].item() == pytest.approx(1, abs=1e-3), name


def test_a_basis_of_weak_directions_is_that_of_a_float64_svd(tmp_path):
    """Below 1e-3 of the leading singular value, where an eigenproblem in float32 reports 16 degrees in place of 6.7."""
    sigma = torch.cat([torch.ones(1), torch.logspace(-3, -3.5, 255)]).double()
    shared = torch.randn(256, 256, generator=torch.Generator().manual_seed(99), dtype=torch.float64)

    def gradients(step: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(step)
        turned = torch.linalg.qr(shared).Q + torch.randn(256, 256, generator=generator, dtype=torch.float64) / 160
        U = torch.linalg.qr(turned).Q
        V = torch.linalg.qr(torch.randn(400, 256, generator=generator, dtype=torch.float64)).Q
        return {NAME: (U * sigma @ V.T).float()}

    table = analysis.angles(write_run(tmp_path / "run", gradients, steps=2), rank=64)
    top = [np.linalg.svd(gradients(step)[NAME].double().numpy())[0][:, :64] for step in (0, 10)]
    expected = scipy.linalg.subspace_angles(*top)
    np.testing.assert_allclose(table["overlap"], (np.cos(expected) ** 2).mean(), atol=0.004)
    np.testing.assert_allclose(table["mean_deg"], np.degrees(expected.mean()), atol=0.6)
