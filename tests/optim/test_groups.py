"""Which parameters get a rank."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from subspace_lab import optim

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, vocab_size=40,
            attention_bias=True,
        )
    )  # fmt: skip


def names(groups: list[dict]) -> dict[int | None, list[str]]:
    """Names by rank; a name must be that of its parameter."""
    return {group["rank"]: list(group["param_names"]) for group in groups}


def test_embeddings_heads_norms_and_biases_stay_full_rank(llama):
    groups = optim.param_groups(llama, rank=4)
    parameters = dict(llama.named_parameters())
    low = [name for name in parameters if name.endswith("_proj.weight")]
    assert len(low) == 2 * len(TARGETS)
    assert names(groups) == {4: low, None: [name for name in parameters if name not in low]}
    for group in groups:
        for name, p in zip(group["param_names"], group["params"], strict=True):
            assert p is parameters[name]


def test_targets_and_exclusions_by_name(llama):
    groups = names(optim.param_groups(llama, rank=4, targets="*.mlp.*"))
    assert all(".mlp." in name for name in groups[4])
    assert len(groups[4]) == 6
    groups = names(optim.param_groups(llama, rank=4, targets=["*.mlp.*", "*q_proj*"], exclude="*layers.1.*"))
    assert sorted(name.split(".")[-2] for name in groups[4]) == ["down_proj", "gate_proj", "q_proj", "up_proj"]
    groups = names(optim.param_groups(llama, rank=4, targets="*embed_tokens.weight"))
    assert groups[4] == ["model.embed_tokens.weight"], "what is asked for by name is not second-guessed"


def test_every_trainable_parameter_is_in_exactly_one_group(llama):
    llama.model.embed_tokens.weight.requires_grad_(False)
    try:
        found = [p for group in optim.param_groups(llama, rank=4) for p in group["params"]]
    finally:
        llama.model.embed_tokens.weight.requires_grad_(True)
    expected = [p for name, p in llama.named_parameters() if "embed" not in name]
    assert sorted(map(id, found)) == sorted(map(id, expected))


def test_tied_weights_appear_once():
    model = LlamaForCausalLM(
        LlamaConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, vocab_size=40,
                    tie_word_embeddings=True)
    )  # fmt: skip
    found = [id(p) for group in optim.param_groups(model, rank=4) for p in group["params"]]
    assert len(found) == len(set(found))


def test_convolutions_are_matrices_and_vectors_are_not():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 1))
    assert names(optim.param_groups(model, rank=2)) == {
        2: ["0.weight"],
        None: ["0.bias", "1.weight", "1.bias", "2.weight", "2.bias"],
    }, "a matrix of one row has no subspace"


def test_wrappers_do_not_show_in_names(llama):
    compiled = nn.Module()
    compiled.add_module("_orig_mod", llama)
    assert names(optim.param_groups(compiled, rank=4)) == names(optim.param_groups(llama, rank=4))


def test_options_of_the_groups_reach_the_optimizer(llama):
    groups = optim.param_groups(llama, rank=4, update_interval=7, scale=0.5)
    optimizer = optim.GrassWalk(groups, lr=0.1)
    assert [(g["rank"], g["update_interval"], g["scale"]) for g in optimizer.param_groups] == [
        (4, 7, 0.5),
        (None, 200, 1),
    ]


@pytest.mark.parametrize(
    "name",
    ["GrassWalk", "GrassJump", "SubTrack", "GaLore", "GoLore", "LDAdam", "Fira", "APOLLO", "FRUGAL",
     "OnlineSubspaceDescent", "RSO", "BAdam", "FastGrassWalk", "FastGrassJump", "DCTAdamW"],
)  # fmt: skip
def test_one_set_of_groups_serves_every_method(name, llama):
    """The loss of a LLaMA on one batch falls, whichever optimizer the groups are given to."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(llama.config)
    ids = torch.randint(40, (4, 12), generator=torch.Generator().manual_seed(0))
    optimizer = getattr(optim, name)(optim.param_groups(model, rank=4), lr=1e-2, update_interval=5)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"targets": "*.self_atn.*"}, ["'*.self_atn.*'", "LlamaForCausalLM", "self_attn"]),
        ({"targets": ["*.mlp.*", "*.gate.*"]}, ["'*.gate.*'", "gate_proj"]),
        ({"exclude": "*.layers.7.*"}, ["'*.layers.7.*'", "nearest"]),
        ({"targets": "*norm*"}, ["'*norm*'", "no matrix"]),
        ({"targets": "*.mlp.*", "exclude": "*"}, ["no matrix"]),
        ({"splits": {"*.qkv.*": 3}}, ["'*.qkv.*'"]),
    ],
    ids=str,
)
def test_patterns_that_match_nothing(settings, expected, llama):
    with pytest.raises(ValueError, match="matri") as caught:
        optim.param_groups(llama, rank=4, **settings)
    for part in expected:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_rank_that_is_none(llama):
    optimizer = optim.GrassWalk(optim.param_groups(llama, rank=None), lr=0.1)
    assert [group["rank"] for group in optimizer.param_groups] == [None]
    with pytest.raises(ValueError, match="rank must be a whole number of at least 1 or None, got 0"):
        optim.GrassWalk(optim.param_groups(llama, rank=0), lr=0.1)


def test_groups_serve_several_optimizers():
    """Settings of one optimizer do not reach another one through the groups that they were made from."""
    groups = optim.param_groups(nn.ModuleDict({"up": nn.Linear(6, 8), "norm": nn.LayerNorm(8)}), rank=2)
    before = [dict(group) for group in groups]
    first = optim.SubspaceAdam(groups, lr=0.5, rule="hybrid")
    assert groups == before
    second = optim.SubspaceAdam(groups, lr=0.25, rule="svd")
    third = optim.GaLore(groups)
    assert [o.param_groups[0]["rule"] for o in (first, second, third)] == ["hybrid", "svd", "svd"]
    assert [o.param_groups[0]["lr"] for o in (first, second, third)] == [0.5, 0.25, 1e-3]


@pytest.mark.parametrize(
    "settings", [{"targets": "*mlp*"}, {"exclude": "*mlp*"}, {"splits": {"*q_proj*": 2}}, {"scale": 1.0}], ids=str
)
def test_what_has_no_effect_without_a_rank_is_refused(settings, llama):
    (name,) = settings
    with pytest.raises(ValueError, match=f"^{name}= has no effect with rank=None"):
        optim.param_groups(llama, rank=None, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"splits": 3}, "splits must be a mapping of globs to numbers"),
        ({"splits": {"*q_proj*": 0}}, r"splits: '\*q_proj\*' must be a whole number of at least 1, got 0"),
        ({"splits": {"*q_proj*": "2"}}, r"splits: '\*q_proj\*' must be a whole number of at least 1, got '2'"),
        (
            {"splits": {"*q_proj*": 2, "*.0.*q_proj*": 4}},
            r"'\*\.0\.\*q_proj\*' and a pattern before it differ on model",
        ),
        ({"targets": 3}, "targets must be a glob on names or several, got 3"),
        ({"exclude": [None]}, "exclude must be a glob on names or several, got None"),
    ],
    ids=str,
)
def test_what_is_no_pattern(settings, message, llama):
    with pytest.raises(ValueError, match=message):
        optim.param_groups(llama, rank=4, **settings)


def test_parameters_in_the_place_of_the_model(llama):
    with pytest.raises(TypeError, match="param_groups takes the model itself, got generator"):
        optim.param_groups(llama.parameters(), rank=4)


def test_a_fused_block_that_is_stacked_along_the_other_dimension():
    """GPT-2 multiplies from the left: a third of the rows is no matrix of its own."""
    config = GPT2Config(n_embd=12, n_layer=1, n_head=2, vocab_size=40, n_positions=8, bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(config)
    with pytest.raises(ValueError, match=r"c_attn.weight is of a Conv1D, which stacks along the second"):
        optim.param_groups(model, rank=4, splits={"*.c_attn.weight": 3})
    assert sum(".c_attn." in name for name in names(optim.param_groups(model, rank=4))[4]) == 1


def test_the_embeddings_of_t5_stay_full_rank():
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 40}
    model = T5ForConditionalGeneration(T5Config(**sizes))
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    _, full = optim.param_groups(model, rank=4)
    assert embeddings <= {id(p) for p in full["params"]}
    assert all(p.dim() == 1 or id(p) in embeddings for p in full["params"])


def test_numbers_of_numpy_are_held_as_plain_ones(tmp_path):
    settings = {"betas": (np.float64(0.9), np.float32(0.5)), "seed": np.int64(3), "scale": np.float32(0.5)}
    model = nn.Linear(6, 8)
    optimizer = optim.GrassWalk(optim.param_groups(model, rank=np.int64(2)), lr=np.float64(0.1), **settings)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    group = saved["param_groups"][0]
    assert (group["rank"], group["lr"], group["betas"], group["seed"]) == (2, 0.1, (0.9, 0.5), 3)


def test_a_group_may_have_a_name_for_whoever_logs_it():
    (group,) = optim.GrassWalk([{"params": nn.Linear(3, 4, bias=False).weight, "rank": 2, "name": "up"}]).param_groups
    assert group["name"] == "up"
