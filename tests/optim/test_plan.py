"""Optimizers from plans: every layer gets its own settings, and what is no plan is said in one line."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from subspace_lab import optim

WALK = {"rank": 4, "update_interval": 7, "rule": "walk", "walk_step": 0.3, "recovery": "scaled"}
JUMP = {"rank": 2, "update_interval": None, "rule": "jump", "walk_step": None, "recovery": "none"}
PLAN = {"layers": [{"layer": "up.weight", **WALK}, {"layer": "gate.weight", **WALK}, {"layer": "down.weight", **JUMP}]}


def model() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({
        "embed": nn.Embedding(8, 6),
        "up": nn.Linear(6, 16),
        "gate": nn.Linear(6, 16),
        "down": nn.Linear(16, 6, bias=False),
    })


def test_layers_with_the_same_settings_share_a_group_and_the_rest_is_full_rank():
    groups = optim.from_plan(model(), PLAN, lr=0.02).param_groups
    assert [g["param_names"] for g in groups] == [
        ["up.weight", "gate.weight"], ["down.weight"], ["embed.weight", "up.bias", "gate.bias"]
    ]  # fmt: skip
    settings = [(g["rank"], g["update_interval"], g["rule"], g["recovery"], g["lr"]) for g in groups[:2]]
    assert settings == [(4, 7, "walk", "scaled", 0.02), (2, 200, "jump", "none", 0.02)]
    assert groups[0]["walk_step"] == 0.3
    assert groups[2]["rank"] is None


def test_it_steps_as_the_same_groups_made_by_hand():
    one, other = model(), model()
    by_plan = optim.from_plan(one, PLAN, lr=0.02)
    by_hand = optim.SubspaceAdam(
        [
            {"params": [other["up"].weight, other["gate"].weight], **WALK},
            {"params": [other["down"].weight], "rank": 2, "rule": "jump", "recovery": "none"},
            {"params": [other["embed"].weight, other["up"].bias, other["gate"].bias], "rank": None},
        ],
        lr=0.02,
    )
    for seed in range(9):
        for module, optimizer in ((one, by_plan), (other, by_hand)):
            generator = torch.Generator().manual_seed(seed)
            for p in module.parameters():
                p.grad = torch.randn(p.shape, generator=generator)
            optimizer.step()
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_path_an_object_and_a_mapping_are_the_same_plan(tmp_path):
    class Said:
        def to_dict(self):
            return PLAN

    path = tmp_path / "plan.json"
    path.write_text(json.dumps(PLAN))
    described = {repr(optim.from_plan(model(), plan, lr=0.1)) for plan in (PLAN, Said(), path, str(path))}
    assert len(described) == 1


def layer(**changes) -> dict:
    return {"layers": [{**PLAN["layers"][0], **changes}]}


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({}, "dict is no plan: it needs layers, each with layer and rank"),
        ({"layers": []}, "dict is no plan"),
        ({"layers": [{"layer": "up.weight"}]}, "dict is no plan"),
        (
            layer(layer="upp.weight"),
            "the plan has upp.weight, which is no trainable parameter of ModuleDict; nearest:",
        ),
        ({"layers": [PLAN["layers"][0]] * 2}, "the plan has up.weight twice"),
        (layer(rank=0), "rank must be"),
        (layer(rule="wander"), "rule must be one of"),
        (layer(layer="up.bias"), "a group with a rank takes real matrices"),
    ],
)
def test_what_is_no_sound_plan_is_said_in_one_line(plan, message):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        optim.from_plan(model(), plan)
    assert message in str(caught.value)


def test_files_that_are_no_plan(tmp_path):
    (tmp_path / "plan.json").write_text("rank = 4")
    with pytest.raises(ValueError, match=r"plan\.json is no JSON; subspace-lab recommend RUN_DIR writes a plan"):
        optim.from_plan(model(), tmp_path / "plan.json")
    with pytest.raises(FileNotFoundError):
        optim.from_plan(model(), tmp_path / "other.json")
    with pytest.raises(TypeError, match="takes the model itself"):
        optim.from_plan(model().parameters(), PLAN)
