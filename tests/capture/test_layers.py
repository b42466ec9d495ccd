"""The layer table: names, kinds, depths, sides, and what is left out."""

import pytest
import torch
from torch import nn

from subspace_lab._kinds import kinds_of
from subspace_lab._names import canonical_names
from subspace_lab.capture import select_layers
from tests.capture.helpers import ConvNet, mlp, tiny_gpt2, tiny_llama


def table(model, patterns=None, side="auto"):
    return {layer.name: layer for layer in select_layers(model, patterns, side)}


def test_llama_layers_by_kind_depth_and_residual_side():
    layers = table(tiny_llama())
    assert layers["model.layers.1.mlp.gate_proj.weight"].row() == {
        "name": "model.layers.1.mlp.gate_proj.weight",
        "depth": 1,
        "kind": "gate_proj",
        "rows": 24,
        "cols": 16,
        "side": "right",
        "shape": [24, 16],
        "residual_side": "right",
    }
    in_stream = {layer.kind: layer.residual_side for layer in layers.values()}
    reads = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "lm_head", "embed_tokens")
    assert in_stream == {**dict.fromkeys(reads, "right"), "o_proj": "left", "down_proj": "left"}
    assert [layer.depth for layer in layers.values()].count(-1) == 2  # embedding and head
    assert len(layers) == 2 + 2 * 7  # no norms


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_the_residual_side_has_the_width_of_the_stream(make):
    model = make()
    width = model.config.hidden_size
    for layer in select_layers(model):
        if layer.residual_side is not None:
            assert width == (layer.rows if layer.residual_side == "left" else layer.cols), layer.name


def test_gpt2_weights_are_transposed():
    layers = table(tiny_gpt2())
    sides = {layer.kind: (layer.rows, layer.cols, layer.residual_side) for layer in layers.values()}
    assert sides["c_attn"] == (16, 48, "left")
    assert sides["c_fc"] == (16, 64, "left")
    assert layers["transformer.h.0.mlp.c_proj.weight"].residual_side == "right"
    assert layers["transformer.h.1.attn.c_proj.weight"].residual_side == "right"  # square: its shape does not tell
    assert sides["wte"] == (29, 16, "right")


def test_tied_weights_are_one_layer_under_their_first_name():
    names = list(table(tiny_gpt2()))
    assert names.count("transformer.wte.weight") == 1
    assert "lm_head.weight" not in names
    with pytest.raises(ValueError, match=r"'lm_head.\*' .* lm_head.weight \(tied to transformer.wte.weight\)"):
        select_layers(tiny_gpt2(), ["lm_head.*"])


def test_shared_modules_are_one_layer():
    shared = nn.Linear(3, 3)
    assert list(table(nn.ModuleDict({"a": shared, "b": shared}))) == ["a.weight"]


def test_convolutions_are_flattened_and_sequential_parts_are_named_after_their_parent():
    layers = table(ConvNet())
    second = layers["features.3.weight"]
    assert (second.rows, second.cols, second.shape) == (5, 8 * 3 * 2, (5, 8, 3, 2))
    assert (second.kind, second.depth, second.residual_side) == ("features", 3, None)
    assert list(layers) == ["features.0.weight", "features.3.weight", "head.weight"]


@pytest.mark.parametrize(
    ("raw", "kind"),
    [("0.weight", "linear"), ("weight", "linear"), ("h.0.1.weight", "h"), ("blocks.2.attn.0.weight", "attn")],
)
def test_kind_of_numbered_modules(raw, kind):
    model: nn.Module = nn.Linear(2, 2, bias=False)
    for part in reversed(raw.split(".")[:-1]):
        model = nn.ModuleDict({part: model})
    assert kinds_of(model) == {raw: kind}


def test_attention_of_torch_reads_the_stream_by_its_columns():
    layers = table(nn.TransformerEncoderLayer(8, 2, 12))
    assert layers["self_attn.in_proj_weight"].residual_side == "right"
    assert layers["self_attn.out_proj.weight"].residual_side == "left"
    assert layers["linear1.weight"].residual_side is None


def test_frozen_and_one_dimensional_parameters_are_left_out():
    model = mlp()
    model["up_proj"].weight.requires_grad_(False)
    assert list(table(model)) == ["down_proj.weight"]
    with pytest.raises(ValueError, match=r"cannot be captured: up_proj.weight \(frozen\)"):
        select_layers(model, ["up_proj.weight"])
    with pytest.raises(ValueError, match=r"cannot be captured: down_proj.bias \(of shape \(4,\)\)"):
        select_layers(model, ["down_proj.bias"])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: torch.compile(model, backend="eager"),
        nn.DataParallel,
        lambda model: nn.DataParallel(torch.compile(model, backend="eager")),
    ],
)
def test_wrappers_leave_no_trace_in_the_table(wrap):
    bare = [layer.row() for layer in select_layers(tiny_llama())]
    assert [layer.row() for layer in select_layers(wrap(tiny_llama()))] == bare


def test_checkpointed_blocks_leave_no_trace_in_the_table():
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model, bare = tiny_llama(), [layer.row() for layer in select_layers(tiny_llama())]
    for number, block in enumerate(model.model.layers):
        model.model.layers[number] = checkpoint_wrapper(block)
    assert [layer.row() for layer in select_layers(model)] == bare


def test_names_that_would_collide_stay_raw():
    model = nn.ModuleDict({"net": nn.Linear(2, 3), "module": nn.ModuleDict({"net": nn.Linear(2, 3)})})
    assert list(table(model)) == ["net.weight", "module.net.weight"]
    assert canonical_names(["a.module.w", "b.module.w", "b.w"]) == {
        "a.module.w": "a.w",
        "b.module.w": "b.module.w",
        "b.w": "b.w",
    }


@pytest.mark.parametrize(
    ("pattern", "nearest"),
    [
        ("*.attn.*", "model.layers.0.self_attn.q_proj.weight"),
        ("*.mlp.downproj.*", "model.layers.0.mlp.down_proj.weight"),
        ("model.layers.1.self_attn.o_proj", "model.layers.1.self_attn.o_proj.weight"),
        ("*EMBED*", "model.embed_tokens.weight"),
    ],
)
def test_a_pattern_that_matches_nothing_names_the_nearest(pattern, nearest):
    with pytest.raises(ValueError, match="matches no parameter of LlamaForCausalLM; nearest: ") as error:
        select_layers(tiny_llama(), ["*.q_proj.*", pattern])
    assert nearest in str(error.value).split("nearest: ")[1].split(", ")
    assert repr(pattern) in str(error.value)
    assert "\n" not in str(error.value)


def test_patterns_choose_in_the_order_of_the_model():
    layers = table(tiny_llama(), ["*.mlp.*", "model.layers.0.self_attn.[qk]_proj.weight"])
    assert [layer.kind for layer in layers.values()] == ["q_proj", "k_proj", *["gate_proj", "up_proj", "down_proj"] * 2]


def test_a_name_with_brackets_matches_itself():
    model = nn.ModuleDict({"a[0]": nn.Linear(2, 2), "a0": nn.Linear(2, 2)})
    assert list(table(model, ["a[0].weight"])) == ["a[0].weight", "a0.weight"]  # as a name and as a glob


def test_a_forced_side_holds_for_all_layers():
    assert {layer.side for layer in select_layers(tiny_llama(), side="left")} == {"left"}


@pytest.mark.parametrize(
    ("model", "patterns", "side", "message"),
    [
        (nn.LayerNorm(3), None, "auto", "LayerNorm has no trainable parameter of two or more dimensions"),
        (nn.Linear(2, 2), [], "auto", "layers is empty"),
        (nn.Linear(2, 2), None, "top", "side must be one of 'auto', 'left', 'right', got 'top'"),
        ([nn.Linear(2, 2)], None, "auto", "model must be a torch.nn.Module, got list"),
    ],
)
def test_wrong_arguments(model, patterns, side, message):
    with pytest.raises(ValueError, match=message):
        select_layers(model, patterns, side)


def test_complex_parameters_are_left_out():
    model = nn.ParameterDict({"a": torch.ones(2, 3, dtype=torch.complex64), "b": torch.ones(2, 3)})
    assert list(table(model)) == ["b"]
    with pytest.raises(ValueError, match=r"a \(of type torch.complex64\)"):
        select_layers(model, ["a"])
