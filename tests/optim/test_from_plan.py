"""Optimizers from plans: every layer gets its own settings, and what is no plan is said in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from subspace_lab import optim
from subspace_lab.optim.rules import RULES

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


def test_a_plan_of_fast_bases():
    layers = [
        {"layer": "up.weight", "rank": 4, "rule": "trig_walk", "swaps": 3, "walk_step": None},
        {"layer": "down.weight", "rank": 2, "rule": "trig", "swaps": None},
    ]
    groups = optim.from_plan(model(), {"layers": layers}, lr=0.02).param_groups
    assert [(g["rule"], g["rank"]) for g in groups[:2]] == [("trig_walk", 4), ("trig", 2)]
    assert groups[0]["swaps"] == 3


def test_it_steps_as_the_same_groups_made_by_hand():
    one, other = model(), model()
    by_plan = optim.from_plan(one, PLAN, lr=0.02)

    def named(*names: str) -> list[tuple[str, torch.nn.Parameter]]:
        return [(name, other.get_parameter(name)) for name in names]

    by_hand = optim.SubspaceAdam(
        [
            {"params": named("up.weight", "gate.weight"), **WALK},
            {"params": named("down.weight"), "rank": 2, "rule": "jump", "recovery": "none"},
            {"params": named("embed.weight", "up.bias", "gate.bias"), "rank": None},
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
        ({"layers": 5}, "dict is no plan"),
        ({"layers": {"up.weight": WALK}}, "dict is no plan"),
        ({"layers": [{"layer": "up.weight"}]}, "dict is no plan"),
        (
            layer(layer="upp.weight"),
            "the plan has upp.weight, which is not a trainable parameter of ModuleDict; nearest:",
        ),
        ({"layers": [PLAN["layers"][0]] * 2}, "the plan has up.weight twice"),
        (
            layer(moments="keep"),
            "the plan has up.weight with moments, which is not a setting of a layer; these are: rank",
        ),
        (layer(rank=0), "the plan has up.weight, where rank must be"),
        (layer(rank="8"), "the plan has up.weight, where rank must be a whole number of at least 1 or None, got '8'"),
        (layer(rank=[8]), "the plan has up.weight, where rank must be a whole number of at least 1 or None, got [8]"),
        (layer(walk_step="x"), "the plan has up.weight, where walk_step must be a finite number"),
        (layer(rule={}), "the plan has up.weight, where rule must be"),
        (layer(rule="wander"), "the plan has up.weight, where rule must be one of 'coordinates', 'dct',"),
        ({**PLAN, "format_version": 2}, "dict is a plan of format version 2, this release reads 1"),
        (layer(layer="up.bias"), "a group with a rank takes real matrices"),
    ],
)
def test_what_is_no_sound_plan_is_said_in_one_line(plan, message):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        optim.from_plan(model(), plan)
    assert message in str(caught.value)


def test_an_option_serves_where_the_plan_says_nothing_and_is_refused_where_it_says_all():
    plan = {"layers": [*PLAN["layers"][:1], {"layer": "down.weight", "rank": np.int64(2), "rule": RULES["walk"]}]}
    groups = optim.from_plan(model(), plan, walk_step=0.2, update_interval=3).param_groups
    assert [(g["rank"], g["walk_step"], g["update_interval"]) for g in groups[:2]] == [(4, 0.3, 7), (2, 0.2, 3)]
    for option in ({"rank": 3}, {"rule": "jump"}):
        with pytest.raises(ValueError, match=f"^{next(iter(option))} has no effect: the plan says it of every layer"):
            optim.from_plan(model(), plan, **option)


def test_files_that_are_no_plan(tmp_path):
    (tmp_path / "plan.json").write_text("rank = 4")
    with pytest.raises(ValueError, match=r"plan\.json is no JSON; subspace-lab recommend RUN_DIR writes a plan"):
        optim.from_plan(model(), tmp_path / "plan.json")
    (tmp_path / "plan.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"plan\.json is no JSON"):
        optim.from_plan(model(), tmp_path / "plan.json")
    with pytest.raises(FileNotFoundError):
        optim.from_plan(model(), tmp_path / "other.json")
    with pytest.raises(TypeError, match="takes the model itself"):
        optim.from_plan(model().parameters(), PLAN)
