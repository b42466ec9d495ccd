"""Where matrices have a learning rate of their own, the scale is nothing but a factor of it."""

from __future__ import annotations

import pytest
import torch

from subspace_lab.optim import METHODS, method_named
from subspace_lab.training.optimizers import settings_of

SCALED = [name for name in METHODS if "scale" in settings_of(method_named(name))]

BASIS_BY_RATE = "onlinesubspacedescent"  # its basis moves by the learning rate, which the scale does not multiply


def trained(name: str, lr: float, scale: float) -> list[torch.Tensor]:
    """Two matrices and a vector after nine steps with two refreshes; the rate of the vector is always the same."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((6, 10), (12, 6), (5,))
    parameters = [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]
    options = {
        key: value for key, value in (("rank", 3), ("update_interval", 4)) if key in settings_of(method_named(name))
    }
    groups = [
        {"params": parameters[:2], **options, "scale": scale, "lr": lr},
        {"params": parameters[2:], "rank": None, "lr": 0.01},
    ]
    if name == "badam":  # its interval is that of all groups
        groups[1]["update_interval"] = 4
    optimizer = method_named(name)(groups, lr=lr, weight_decay=0.0)
    for _ in range(9):
        for one in parameters:
            one.grad = torch.randn(one.shape, generator=generator, dtype=torch.float64)
        optimizer.step()
    return parameters


@pytest.mark.parametrize("name", [name for name in SCALED if name != BASIS_BY_RATE])
def test_a_quarter_of_the_scale_at_four_times_the_rate_is_the_same_training(name: str) -> None:
    """A power of two changes no digit."""
    one, other = trained(name, 4 * 1e-3, 0.25), trained(name, 1e-3, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    changed = trained(name, 1e-3, 0.25)
    assert not torch.equal(changed[0], other[0])
    assert torch.equal(changed[2], other[2])


def test_where_the_basis_moves_by_the_rate_the_scale_is_a_setting_of_its_own() -> None:
    assert not torch.equal(trained(BASIS_BY_RATE, 4 * 1e-3, 0.25)[0], trained(BASIS_BY_RATE, 1e-3, 1.0)[0])
