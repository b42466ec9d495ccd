"""Cosines, conflict and energy of a step against vectors and matrices by hand, and random ones against their nulls."""

import math

import numpy as np
import pytest
import torch

from subspace_lab.studies.safety.referee.conflict import conflict_row, conflicts, cosine, safety_energy

USER, SAFETY = [torch.tensor([0.0, -2.0, 5.0])], [torch.tensor([-1.0, 1.0, -1.0])]


def test_the_worked_example_of_surgery():
    """g_u = (0, -2, 5), g_s = (-1, 1, -1): surgery gives (-7/3, 1/3, 8/3), which is orthogonal to g_s."""
    after, step = [torch.tensor([-7.0, 1.0, 8.0]) / 3], [torch.tensor([0.1, 0.0, 0.0])]
    row = conflict_row(USER, SAFETY, after, step)
    assert row["cos_user_safety"] == pytest.approx(-7 / math.sqrt(29 * 3), rel=1e-12)
    assert row["conflict"] == 1
    assert row["cos_after"] == pytest.approx(0, abs=1e-7)
    assert not conflicts(row["cos_after"])
    assert row["cos_applied"] == pytest.approx(1 / math.sqrt(3), rel=1e-7), "-dW = (-.1, 0, 0) descends the safety loss"
    assert row["null_cos_sd"] == pytest.approx(1 / math.sqrt(3))


def test_a_step_along_the_negative_gradient_has_the_cosine_of_the_gradient():
    draw = torch.Generator().manual_seed(0)
    user, safety = ([torch.randn(5, 7, generator=draw), torch.randn(4, generator=draw)] for _ in range(2))
    row = conflict_row(user, safety, user, [-0.3 * one for one in user])
    assert row["cos_after"] == row["cos_user_safety"]
    assert row["cos_applied"] == pytest.approx(row["cos_user_safety"], rel=1e-6)


def test_the_cosine_is_that_of_the_whole_vector_and_none_counts_as_zeros():
    first = [torch.tensor([[3.0, 0.0], [0.0, 4.0]]), None, torch.tensor([12.0])]
    second = [torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([2.0]), None]
    assert cosine(first, second) == pytest.approx(3 / (13 * math.sqrt(5)), rel=1e-12)
    assert math.isnan(cosine([None], [torch.ones(1)]))


def test_the_energy_of_the_worked_example():
    """G_s = diag(2, 1), G_u = [[-2, 3], [1, 2]], k = 1: the first row holds 13 of 18."""
    energy, null = safety_energy([torch.tensor([[-2.0, 3.0], [1.0, 2.0]])], [torch.diag(torch.tensor([2.0, 1.0]))], 1)
    assert energy == pytest.approx(13 / 18, rel=1e-6)
    assert null == 0.5


def test_matrices_are_oriented_by_their_shorter_side_and_weighted_by_energy():
    wide, tall = torch.zeros(2, 5), torch.zeros(6, 3)
    wide[0, 0], tall[0, 2] = 1.0, 2.0
    user = [wide, tall, torch.ones(4)]  # a vector has no subspace
    safety = [
        torch.ones(1, 5) * torch.tensor([[3.0], [1e-3]]),
        torch.ones(6, 1) * torch.tensor([[0.0, 0.0, 1.0]]),
        torch.ones(4),
    ]
    energy, null = safety_energy(user, safety, 1)
    assert energy == pytest.approx(1, abs=1e-6)
    assert null == pytest.approx((1 / 2 * 1 + 1 / 3 * 4) / 5)
    assert safety_energy(user, safety, 4) == pytest.approx((1, 1)), "of k above m the whole space"


def test_random_gradients_have_the_nulls():
    draw = torch.Generator().manual_seed(1)
    rows = []
    for _ in range(200):
        user, safety = ([torch.randn(12, 30, generator=draw)] for _ in range(2))
        rows.append(conflict_row(user, safety, user, user, k=3))
    energies, cosines = (np.array([row[name] for row in rows]) for name in ("energy", "cos_user_safety"))
    assert rows[0]["null_energy"] == 0.25
    assert energies.mean() == pytest.approx(0.25, abs=4 * energies.std() / 200**0.5)
    assert cosines.std() == pytest.approx(rows[0]["null_cos_sd"], rel=0.2)
    assert np.mean([row["conflict"] for row in rows]) == pytest.approx(0.5, abs=4 * 0.5 / 200**0.5)


def test_zero_gradients_are_missing_values():
    zero, one = [torch.zeros(2, 2)], [torch.eye(2)]
    row = conflict_row(zero, one, [None], zero, k=1)
    assert all(math.isnan(row[name]) for name in ("cos_user_safety", "conflict", "cos_after", "cos_applied", "energy"))
    assert math.isnan(conflict_row(one, zero, one, one)["energy"])


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="one tensor per parameter"):
        conflict_row(USER, SAFETY, USER, [])
    with pytest.raises(ValueError, match="k=0"):
        safety_energy(USER, SAFETY, 0)
