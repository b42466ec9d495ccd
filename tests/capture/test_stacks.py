"""Experts in one tensor are a layer each, from the gradient to the analyses and the plan."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import GptOssConfig, GptOssForCausalLM, MixtralConfig, MixtralForCausalLM

import subspace_lab as sl
from subspace_lab.capture import select_layers

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 40,
         "num_key_value_heads": 1, "num_local_experts": 3, "head_dim": 8}  # fmt: skip


def mixtral() -> MixtralForCausalLM:
    torch.manual_seed(0)
    return MixtralForCausalLM(MixtralConfig(**SIZES))


def captured(model: nn.Module, path, **settings) -> list[dict[str, torch.Tensor]]:
    """Three steps of a training and the gradients that they had."""
    ids = torch.randint(40, (4, 12), generator=torch.Generator().manual_seed(0))
    optimizer, gradients = torch.optim.SGD(model.parameters(), lr=0.1), []
    with sl.GradientCapture(model, path, every=1, **settings) as capture:
        capture.attach(optimizer)
        for _ in range(3):
            optimizer.zero_grad()
            model(input_ids=ids, labels=ids).loss.backward()
            gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
            optimizer.step()
    return gradients


@pytest.mark.parametrize("keep", ["full", "gram"])
def test_every_expert_is_a_layer(tmp_path, keep):
    gradients = captured(mixtral(), tmp_path / "run", keep=keep, layers="*.experts.*")
    run = sl.Run.open(tmp_path / "run")
    names = [f"model.layers.{b}.mlp.experts.{p}[{e}]" for b in (0, 1) for p in ("gate_up_proj", "down_proj")
             for e in range(3)]  # fmt: skip
    assert list(run.layers["name"]) == names
    assert set(run.layers["kind"]) == {"gate_up_proj", "down_proj"}
    for step, truth in enumerate(gradients):
        for name in names:
            stack, _, number = name.removesuffix("]").partition("[")
            G = truth[stack][int(number)]
            if keep == "full":
                assert torch.equal(run.gradient(step, name), G)
            C = G @ G.T if run.layers.set_index("name")["side"][name] == "left" else G.T @ G
            torch.testing.assert_close(run.gram(step, name).double(), C.double(), rtol=1e-4, atol=1e-9)


def test_a_pattern_names_a_stack_or_one_of_its_matrices():
    model, name = mixtral(), "model.layers.1.mlp.experts.down_proj"
    assert [layer.name for layer in select_layers(model, [name])] == [f"{name}[{e}]" for e in range(3)]
    assert [layer.name for layer in select_layers(model, [f"{name}[2]"])] == [f"{name}[2]"]
    assert [layer.shape for layer in select_layers(model, ["*down_proj*"])] == [(16, 24)] * 6


def test_from_capture_to_the_optimizer_of_a_plan(tmp_path):
    model = mixtral()
    captured(model, tmp_path / "run")
    run = sl.Run.open(tmp_path / "run", write=True)
    table = sl.analysis.energy(run, ranks=[2])
    assert {name for name in table["layer"] if "experts" in name} == {
        name for name in run.layers["name"] if name.endswith("]")
    }
    optimizer = sl.optim.from_plan(model, sl.recommend(run), lr=1e-3)
    experts = {id(p): name for name, p in model.named_parameters() if p.dim() == 3}
    for group in optimizer.param_groups:
        for p in group["params"]:
            assert group["splits"] == (3 if id(p) in experts and group["rank"] else 1)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    optimizer.step()


def test_the_matrices_of_a_stack_share_the_largest_rank_of_a_plan():
    model, name = mixtral(), "model.layers.0.mlp.experts.down_proj"
    plan = {"layers": [{"layer": f"{name}[{e}]", "rank": 2 + e, "update_interval": 9 - e} for e in range(3)]}
    group = sl.optim.from_plan(model, plan).param_groups[0]
    assert (group["param_names"], group["rank"], group["update_interval"], group["splits"]) == ([name], 4, 7, 3)
    for layers, message in [([0, 3], r"has .*down_proj\[3\], and .* is 3 matrices"), ([1, 1], r"down_proj\[1\] twice")]:
        plan = {"layers": [{"layer": f"{name}[{e}]", "rank": 2} for e in layers]}
        with pytest.raises(ValueError, match=message):
            sl.optim.from_plan(model, plan)


def test_convolutions_are_one_layer_and_biases_of_experts_are_one_too():
    assert [layer.shape for layer in select_layers(nn.Conv1d(4, 6, 3))] == [(6, 4, 3)]
    torch.manual_seed(0)
    layers = select_layers(GptOssForCausalLM(GptOssConfig(**SIZES)), ["*.0.mlp.experts.*"])
    assert [(layer.name.rpartition(".")[2], layer.shape) for layer in layers] == [
        *((f"gate_up_proj[{e}]", (16, 48)) for e in range(3)), ("gate_up_proj_bias", (3, 48)),
        *((f"down_proj[{e}]", (24, 16)) for e in range(3)), ("down_proj_bias", (3, 16)),
    ]  # fmt: skip


def test_one_row_or_column_is_captured_only_by_name():
    """One direction holds everything there: a trivial 100 per cent in every table."""
    model = nn.ModuleDict({"up": nn.Linear(4, 6), "head": nn.Linear(6, 1), "gain": nn.Conv1d(1, 5, 1)})
    assert [layer.name for layer in select_layers(model)] == ["up.weight"]
    assert [layer.name for layer in select_layers(model, ["head.*", "gain.*"])] == ["head.weight", "gain.weight"]
    with pytest.raises(ValueError, match=r"Linear has only matrices of one row or column, .* name them by layers="):
        select_layers(nn.Linear(3, 1))
