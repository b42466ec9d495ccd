"""Attribution alignment: closed form on a linear model, finite differences, the authors' lines, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

import subspace_lab as sl
from subspace_lab.regularizers import attribution_alignment

N, D = 7, 5


@pytest.fixture(autouse=True)
def _doubles():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def linear():
    return nn.Linear(D, 1)


def network():
    return nn.Sequential(nn.Linear(D, 6), nn.SiLU(), nn.Linear(6, 3))


def test_it_is_named_at_the_root():
    assert sl.regularizers.attribution_alignment is attribution_alignment


def test_on_a_linear_model_it_is_the_angle_between_x_w_and_the_scores():
    model, x, s, gamma = linear(), torch.rand(N, D), torch.randn(D), 3.0
    found = attribution_alignment(model, x, torch.sum, s, gamma=gamma)
    (found_gradient,) = torch.autograd.grad(found, model.weight)
    w, expected, gradient = model.weight[0].detach(), 0.0, torch.zeros(D)
    for row in x:
        a = row * w
        cos = a @ s / (a.norm() * s.norm())
        expected += gamma / N * 2 / D * (1 - cos)
        gradient -= gamma / N * 2 / D * row * (s / s.norm() - cos * a / a.norm()) / a.norm()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found_gradient[0], gradient)


def test_it_is_zero_where_they_point_the_same_way_and_largest_where_they_are_opposite():
    model, s = linear(), torch.rand(D) + 0.1
    for sign, expected in ((1.0, 0.0), (-1.0, 4 / D)):
        with torch.no_grad():
            model.weight.copy_(sign * 17 * s[None])
        found = attribution_alignment(model, torch.ones(N, D), torch.sum, s, gamma=1.0)
        assert found.item() == pytest.approx(expected, abs=1e-12)


def test_neither_the_lengths_nor_the_number_of_rows_matter():
    model, x, s = network(), torch.rand(N, D), torch.randn(D)
    once = attribution_alignment(model, x, torch.sum, s, gamma=1.0)
    torch.testing.assert_close(attribution_alignment(model, x, lambda y: 9 * y.sum(), 0.1 * s, gamma=1.0), once)
    torch.testing.assert_close(attribution_alignment(model, x.repeat(3, 1), torch.sum, s, gamma=1.0), once)
    torch.testing.assert_close(attribution_alignment(model, x, torch.sum, s, gamma=2.5), 2.5 * once)


@pytest.mark.parametrize("form", ["paper", "released"])
@pytest.mark.parametrize("make", [linear, network])
def test_its_gradient_is_that_of_finite_differences(make, form):
    model, x, s = make(), torch.rand(N, D), torch.randn(D)
    x[2] = 0  # a row without attributions
    names, values = zip(*model.named_parameters(), strict=True)

    class Called(nn.Module):
        def __init__(self, parameters):
            super().__init__()
            self.values = parameters

        def forward(self, rows):
            return functional_call(model, dict(zip(names, self.values, strict=True)), (rows,))

    def term(*parameters):
        return attribution_alignment(Called(parameters), x, lambda y: y[:, 0].sum(), s, gamma=2.0, form=form)

    inputs = tuple(value.detach().requires_grad_(True) for value in values)
    assert torch.autograd.gradcheck(term, inputs, eps=1e-6, atol=1e-7, rtol=1e-6)


def test_the_released_form_is_that_of_the_authors_lines():
    """Input times gradient of the mean output; as target the scores with their exponential, times the inputs."""
    model, x, s = network(), torch.randn(N, D), torch.randint(-4, 5, (D,)).double()
    x[2] = 0
    rows = x.clone().requires_grad_(True)
    attributions = torch.autograd.grad(model(rows)[:, 0].mean(), rows)[0] * rows
    target = s.abs().exp() * s.sign() * rows
    expected = nn.MSELoss()(functional.normalize(attributions, dim=-1), functional.normalize(target, dim=-1))
    found = attribution_alignment(model, x, lambda y: y[:, 0].sum(), s, gamma=1.0, form="released")
    torch.testing.assert_close(found, expected)


def test_rows_without_attributions_are_left_out():
    model, x, s = network(), torch.rand(N, D), torch.randn(D)
    with_zeros = torch.cat([x, torch.zeros(4, D)])
    objective = lambda y: y[:, 0].sum()  # noqa: E731
    expected = attribution_alignment(model, x, objective, s, gamma=1.0)
    torch.testing.assert_close(attribution_alignment(model, with_zeros, objective, s, gamma=1.0), expected)
    nothing = attribution_alignment(model, torch.zeros(4, D), objective, s, gamma=1.0)
    assert nothing.item() == 0
    nothing.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_rows_may_have_any_shape_and_the_caller_may_be_without_gradients():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 1))
    x, s = torch.rand(N, 3, 4), torch.randn(3, 4)
    found = attribution_alignment(model, x, torch.sum, s, gamma=1.0)
    flat = attribution_alignment(model[1], x.flatten(1), torch.sum, s.flatten(), gamma=1.0)
    torch.testing.assert_close(found, flat)
    with torch.no_grad():
        torch.testing.assert_close(attribution_alignment(model, x, torch.sum, s, gamma=1.0), found)
    assert not x.requires_grad


def test_training_by_it_alone_turns_the_attributions_to_the_scores():
    model, x, s = network(), torch.rand(40, D) + 0.1, torch.tensor([3.0, -1, 0.5, 0, 2])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)

    def cosine():
        rows = x.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(model(rows)[:, 0].sum(), rows)
        return functional.cosine_similarity((rows * gradient).detach(), s[None], dim=1).mean().item()

    assert cosine() < 0.9
    for _ in range(200):
        optimizer.zero_grad()
        attribution_alignment(model, x, lambda y: y[:, 0].sum(), s, gamma=1.0).backward()
        optimizer.step()
    assert cosine() > 0.9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": torch.ones(3, D, dtype=torch.long)}, "inputs must be rows of floating-point numbers"),
        ({"inputs": torch.ones(D)}, r"\(n, features\), got torch.float.. of shape \(5,\)"),
        ({"inputs": torch.ones(0, D)}, r"of shape \(0, 5\)"),
        ({"inputs": [[1.0]]}, "got list"),
        ({"scores": torch.ones(D + 1)}, r"scores have shape \(6,\), a row of the inputs has \(5,\)"),
        ({"scores": torch.zeros(D)}, "not all zero"),
        ({"scores": [1.0, float("nan"), 0, 0, 0]}, "must be finite"),
        ({"scores": "high"}, "scores must be numbers"),
        ({"scores": {"radius": 1.0}}, "scores must be numbers"),
        ({"gamma": -1.0}, "gamma must be a number of at least 0"),
        ({"gamma": float("nan")}, "gamma must be a number of at least 0"),
        ({"form": "mean"}, "form must be one of 'paper', 'released'"),
        ({"objective": lambda y: y}, r"a scalar, such as the sum of the logits, got a tensor of shape \(3, 1\)"),
        ({"objective": lambda y: 1.0}, "got float"),
        ({"objective": lambda y: y.detach().sum()}, "does not depend on the inputs"),
        ({"objective": lambda y: torch.ones((), requires_grad=True)}, "does not depend on the inputs"),
    ],
)
def test_what_cannot_be_is_one_line(changes, message):
    given = {"inputs": torch.ones(3, D), "objective": torch.sum, "scores": torch.ones(D), "gamma": 1.0, **changes}
    with pytest.raises(ValueError, match=message) as caught:
        attribution_alignment(linear(), **given)
    assert "\n" not in str(caught.value)
