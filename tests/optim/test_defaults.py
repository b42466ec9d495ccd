"""Which method is which: three parts, defaults, and the basis it starts from."""

from __future__ import annotations

import inspect

import pytest
import scipy.linalg
import torch

from subspace_lab import optim
from tests.optim.trajectories import drifting

ADAM = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
SHARED = {**ADAM, "update_interval": 200, "scale": 1.0}
RECOVERED = {**SHARED, "recovery_scale": 1.0, "zeta": 1.01, "limiter": "after_bias_correction"}
# method -> (rule, moments, recovery), defaults
METHODS: dict[str, tuple[tuple[str, str, str] | None, dict]] = {
    "GrassWalk": (("walk", "transport", "scaled"), {**RECOVERED, "walk_step": 0.1, "transport": "published"}),
    "GrassJump": (("jump", "transport", "scaled"), {**RECOVERED, "transport": "published"}),
    "SubTrack": (("track", "transport", "scaled"), {**RECOVERED, "step_size": "exact", "transport": "published"}),
    "GaLore": (("svd", "keep", "none"), {**SHARED, "scale": 0.25}),
    "GoLore": (("golore", "keep", "none"), {**SHARED, "scale": 0.25, "random_after": None}),
    "Fira": (("svd", "keep", "scaled"), {**RECOVERED, "scale": 0.25}),
    "LDAdam": (
        ("power", "transport", "feedback"),
        {**SHARED, "betas": (0.908, 0.99), "rho": 0.908, "update_interval": 1},
    ),
    "FastGrassWalk": (("trig_walk", "transport", "scaled"), {**RECOVERED, "swaps": 1, "transport": "published"}),
    "FastGrassJump": (("trig", "transport", "scaled"), {**RECOVERED, "transport": "published"}),
    "DCTAdamW": (("dct", "transport", "residual"), {**SHARED, "update_interval": 1, "transport": "published"}),
    "APOLLO": (None, {**SHARED, "zeta": 1.01, "limiter": "after_bias_correction", "scaling": "channel"}),
    "FRUGAL": (None, {**SHARED, "recovery_scale": 1.0}),
    "OnlineSubspaceDescent": (None, SHARED),
    "RSO": (None, SHARED),
    "BAdam": (None, {**SHARED, "update_interval": 100}),
}
BASES = ["GrassWalk", "GrassJump", "SubTrack", "GaLore", "GoLore", "Fira", "LDAdam", "OnlineSubspaceDescent"]


@pytest.mark.parametrize("name", METHODS)
def test_defaults(name):
    parts, defaults = METHODS[name]
    p = torch.nn.Parameter(torch.zeros(4, 6))
    optimizer = getattr(optim, name)([{"params": [p], "rank": 2}])
    (group,) = optimizer.param_groups
    shown = {option: x.default for option, x in inspect.signature(getattr(optim, name)).parameters.items()}
    for option, value in defaults.items():
        assert group[option] == value, option
        assert shown[option] == value, option
    if parts is not None:
        assert (group["rule"], group["moments"], group["recovery"]) == parts


@pytest.mark.parametrize("name", BASES)
def test_first_bases_are_the_top_space_of_the_first_gradient_but_for_jumps(name):
    p = torch.nn.Parameter(torch.zeros(12, 20))
    optimizer = getattr(optim, name)([{"params": [p], "rank": 4}])
    (G,) = drifting((12, 20), 1)
    p.grad = G.float()
    optimizer.step()
    top = scipy.linalg.svd(G.numpy())[0][:, :4]
    angle = scipy.linalg.subspace_angles(optimizer.state[p]["basis"].numpy(), top).max()
    assert angle > 0.1 if name == "GrassJump" else angle < 1e-5
