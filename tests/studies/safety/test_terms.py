"""The terms of Booster and Panacea against Hessians by hand: a quadratic, where they are exact, and a cubic."""

import math

import pytest
import torch
from torch import nn

from subspace_lab.studies.safety.referee.terms import term_table

H = torch.tensor([[2.0, 1, 0], [1, 3, 1], [0, 1, 4]], dtype=torch.float64)
B = torch.tensor([1.0, -1, 0.5], dtype=torch.float64)


class Weights(nn.Module):
    def __init__(self, *values):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(values, dtype=torch.float64))


def quadratic(model, _batch):
    return model.w @ H @ model.w / 2 + B @ model.w


def test_on_a_quadratic_the_terms_are_products_with_the_hessian_at_any_size():
    model = Weights(1.0, -1.0, 2.0)
    table = term_table(model, quadratic, None, sizes=(10.0, 0.1))
    assert table["term"].tolist() == ["booster", "booster", "panacea", "panacea"]
    assert table["relative_error"].max() < 1e-12
    assert table["cosine"].tolist() == pytest.approx([1] * 4)
    assert table["norm_ratio"].tolist() == pytest.approx([1] * 4)
    assert table["cos_norm_gradient"].tolist() == pytest.approx([1, 1, -1, -1]), "one descends what the other ascends"
    assert model.w.tolist() == [1, -1, 2]


def test_on_a_cubic_the_error_is_that_of_the_next_order():
    """h = sum w^3: g = 3 w^2, H = 6 diag(w), and g(w) - g(w - a u) = a H u - 3 a^2 u^2."""
    model = Weights(1.0, -2.0, 0.5)
    table = term_table(model, lambda model, _: (model.w**3).sum(), None, sizes=(1.0, 0.1, 0.01))
    w = model.w.detach()
    u = 3 * w**2 / (3 * w**2).norm()
    expected = [a * float((3 * u**2).norm() / (6 * w * u).norm()) for a in (1.0, 0.1, 0.01)]
    assert table["relative_error"].tolist() == pytest.approx([*expected, *expected], rel=1e-9)
    booster = (6 * w * u - 3 * 0.1 * u**2).norm() / (6 * w * u).norm()
    panacea = (6 * w * u + 3 * 0.1 * u**2).norm() / (6 * w * u).norm()
    assert table["norm_ratio"].tolist()[1::3] == pytest.approx([float(booster), float(panacea)], rel=1e-9)


def test_a_step_against_each_term_changes_the_norm_of_the_harmful_gradient_by_its_sign():
    signs = term_table(Weights(1.0, -1.0, 2.0), quadratic, None, sizes=(0.1,)).set_index("term")["cos_norm_gradient"]
    w = torch.tensor([1.0, -1.0, 2.0], dtype=torch.float64)

    def norm(at):
        return float((H @ at + B).norm())

    u = (H @ w + B) / norm(w)
    for name, direction in (("booster", H @ u), ("panacea", -H @ u)):
        slope = (norm(w - 1e-6 * direction) - norm(w + 1e-6 * direction)) / 2e-6
        assert math.copysign(1, slope) == -math.copysign(1, signs[name])


def test_what_has_no_term_is_refused():
    with pytest.raises(ValueError, match="is zero here"):
        term_table(Weights(0.0), lambda model, _: (model.w**2).sum(), None)
    with pytest.raises(ValueError, match="positive, got 0"):
        term_table(Weights(1.0), lambda model, _: (model.w**2).sum(), None, sizes=(0.0,))
