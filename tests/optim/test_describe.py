"""What ``repr`` shows: every group in a few lines, and no setting that has no effect."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from subspace_lab import optim
from subspace_lab.optim.options import OPTIONS
from tests.optim.members import MEMBERS, groups, parameters


def model() -> nn.Module:
    return nn.ModuleDict({"up": nn.Linear(6, 8), "down": nn.Linear(8, 6)})


def test_names_settings_and_what_is_full_rank():
    optimizer = optim.GaLore(optim.param_groups(model(), rank=2), lr=0.5, update_interval=7)
    assert repr(optimizer) == (
        "GaLore (\n"
        "  group 0: 2 parameters, up.weight to down.weight\n"
        "    rank=2, lr=0.5, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0, update_interval=7, scale=0.25,\n"
        "    side='auto', splits=1, state_dtype=None, stochastic_rounding=False, on_nonfinite='raise', seed=0\n"
        "  group 1: 2 parameters, up.bias to down.bias, full-rank AdamW\n"
        "    lr=0.5, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0, state_dtype=None,\n"
        "    stochastic_rounding=False, on_nonfinite='raise'\n"
        ")"
    )


def test_options_of_parts_that_are_not_in_use_are_not_shown():
    chosen = {"rule": "svd", "moments": "reset", "recovery": "none"}
    text = repr(optim.SubspaceAdam(optim.param_groups(model(), rank=2), **chosen))
    assert "rule='svd', moments='reset', recovery='none'" in text
    assert not any(f"{name}=" in text for name in ("walk_step", "zeta", "transport", "rho"))


def test_what_a_scheduler_writes_into_the_groups_is_shown():
    optimizer = optim.GrassWalk(optim.param_groups(model(), rank=2), lr=0.5)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    assert repr(optimizer).count("initial_lr=0.5") == 2


@pytest.mark.parametrize("member", MEMBERS, ids=str)
def test_every_option_of_a_group_with_a_rank_is_shown_in_short_lines(member):
    optimizer = member.build(groups(parameters()))
    lines = repr(optimizer).splitlines()
    assert max(map(len, lines)) <= 100
    first = "".join(lines[: lines.index(next(line for line in lines if "group 1" in line))])
    own = set(type(optimizer).options) if member.name != "SubspaceAdam" else {"rule", "moments", "recovery"}
    assert all(f"{name}=" in first for name in own & set(OPTIONS))
