"""Adaptive group-wise clipping against a literal loop over norms, and its edges."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from subspace_lab.optim import AdaptiveGroupClipper


def parameters(*sizes: int) -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(size)) for size in sizes]


def set_norm(members: list[nn.Parameter], norm: float) -> None:
    """Give a group of parameters a random gradient of that norm over all."""
    for seed, p in enumerate(members):
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
    total = math.sqrt(sum(float(p.grad.square().sum()) for p in members))
    for p in members:
        p.grad.mul_(norm / total)


def norm_of(members: list[nn.Parameter]) -> float:
    return math.sqrt(sum(float(p.grad.square().sum()) for p in members))


NORMS = [1.0, 1.1, 9.0, 0.2, 1.0, 3.0, 0.9, 5.0, 0.1, 1.2]


@pytest.mark.parametrize(("low", "high", "beta"), [(0.0, 1.5, 0.98), (0.5, 1.2, 0.9), (1.0, 1.0, 0.5), (0.0, 3.0, 0.0)])
def test_norms_are_kept_in_the_band_around_their_running_mean(low, high, beta):
    groups = {"q_proj": parameters(5, 7), "norm": parameters(3)}
    clip = AdaptiveGroupClipper(groups, low=low, high=high, beta=beta)
    mean = None
    for step, norm in enumerate(NORMS):
        set_norm(groups["q_proj"], norm)
        set_norm(groups["norm"], 2.0)
        direction = groups["q_proj"][0].grad / norm
        factors = clip()
        mean = norm if mean is None else mean
        kept = min(max(norm, low * mean), high * mean)
        mean = beta * mean + (1 - beta) * kept
        assert norm_of(groups["q_proj"]) == pytest.approx(kept, rel=1e-5), step
        assert factors == pytest.approx({"q_proj": kept / norm, "norm": 1.0}, rel=1e-5)
        torch.testing.assert_close(groups["q_proj"][0].grad, direction * kept)


def test_the_band_moves_from_early_to_late_edges():
    (p,) = parameters(4)
    clip = AdaptiveGroupClipper({"all": [p]}, low=0.2, high=3.0, late_low=0.6, late_high=1.4, transition=(2, 6))
    bands = []
    for _ in range(9):
        bands.append(clip.band())
        p.grad = torch.ones(4)
        clip()
    assert bands[:3] == [(0.2, 3.0)] * 3
    assert bands[4] == pytest.approx((0.4, 2.2))
    assert bands[6:] == [pytest.approx((0.6, 1.4))] * 3


def test_a_model_is_grouped_by_the_kind_of_module():
    block = nn.ModuleDict({
        "q_proj": nn.Linear(4, 4, bias=False),
        "down_proj": nn.Linear(4, 4),
        "norm": nn.LayerNorm(4),
    })
    model = nn.ModuleDict({
        "embed_tokens": nn.Embedding(5, 4),
        "layers": nn.ModuleList([block, nn.ModuleDict({"q_proj": nn.Linear(4, 4, bias=False)})]),
    })
    model["embed_tokens"].weight.requires_grad_(False)
    clip = AdaptiveGroupClipper(model)
    assert {kind: len(members) for kind, members in clip.groups.items()} == {"q_proj": 2, "down_proj": 2, "norm": 2}


def test_groups_without_gradients_zero_norms_and_norms_that_are_not_finite():
    groups = {"none": parameters(2), "zero": parameters(2), "bad": parameters(2)}
    clip = AdaptiveGroupClipper(groups, low=0.5, high=1.5)
    for norm in (1.0, 1.0):
        set_norm(groups["zero"], norm)
        set_norm(groups["bad"], norm)
        clip()
    groups["zero"][0].grad.zero_()
    groups["bad"][0].grad[0] = float("nan")
    factors = clip()
    assert factors == {"zero": 1.0, "bad": 1.0}
    assert groups["bad"][0].grad.isnan().any(), "for the optimizer to complain about"
    set_norm(groups["bad"], 9.0)
    clip()
    assert norm_of(groups["bad"]) == pytest.approx(1.5, rel=1e-5), "a bad norm is no history"


def test_a_resumed_clipper_goes_on():
    results = []
    for stop in (None, 4):
        members = parameters(6)
        clip = AdaptiveGroupClipper({"all": members}, low=0.3, high=1.3, transition=(1, 5), late_high=1.1)
        kept = []
        for step, norm in enumerate(NORMS):
            if step == stop:
                state = clip.state_dict()
                clip = AdaptiveGroupClipper({"all": members}, low=0.3, high=1.3, transition=(1, 5), late_high=1.1)
                clip.load_state_dict(state)
            set_norm(members, norm)
            clip()
            kept.append(norm_of(members))
        results.append(kept)
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"low": -0.1}, "low=-0.1"),
        ({"low": 1.2}, "low=1.2"),
        ({"high": 0.9}, "high=0.9"),
        ({"late_high": 0.5}, "late_high=0.5"),
        ({"beta": 1.0}, "1.0"),
        ({"beta": "0.9"}, "got '0.9'"),
        ({"beta": None}, "got None"),
        ({"transition": (5, 2)}, "(5, 2)"),
        ({"transition": 5}, "5"),
        ({"transition": (5,)}, "(5,)"),
        ({"transition": (0.5, 2)}, "(0.5, 2)"),
        ({"low": "0"}, "low='0'"),
    ],
    ids=str,
)
def test_bad_settings(settings, expected):
    with pytest.raises(ValueError, match=r"needed|must be") as caught:
        AdaptiveGroupClipper({"all": parameters(2)}, **settings)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_state_of_other_groups():
    clip = AdaptiveGroupClipper({"all": parameters(2)})
    with pytest.raises(ValueError, match="group 'other', expected some of all"):
        clip.load_state_dict({"steps": 3, "means": {"other": 1.0}})


@pytest.mark.parametrize("nothing", [[], {}, (p for p in ())], ids=["list", "dict", "generator"])
def test_nothing_to_clip(nothing):
    with pytest.raises(ValueError, match="a model or a mapping of names to parameters is needed, got"):
        AdaptiveGroupClipper(nothing)


def test_a_group_of_one_parameter():
    (p,) = parameters(1)
    assert AdaptiveGroupClipper({"all": p}).groups == {"all": [p]}


def test_a_state_that_is_none():
    with pytest.raises(ValueError, match=r"has 'steps' and 'means', got \['state'\]"):
        AdaptiveGroupClipper({"all": parameters(2)}).load_state_dict({"state": {}})
