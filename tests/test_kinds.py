"""A kind tells layers of one role from others, in a capture and in the clipper alike."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from subspace_lab._kinds import kinds_of
from subspace_lab.capture import select_layers
from subspace_lab.optim import AdaptiveGroupClipper
from tests.capture.helpers import tiny_gpt2, tiny_llama


def kinds(model: nn.Module) -> set[str]:
    """Kinds of the layers of a model, which are the same wherever they are asked for."""
    found = {layer.name: layer.kind for layer in select_layers(model, ["*"])}
    of = kinds_of(model)
    assert found == {name: of[name] for name in found}
    groups = AdaptiveGroupClipper(model).groups
    assert set(found.values()) <= set(groups)
    assert [len(groups[kind]) for kind in groups] == [
        list(trainable(model, of).values()).count(kind) for kind in groups
    ]
    return set(found.values())


def trainable(model: nn.Module, of: dict[str, str]) -> dict[str, str]:
    return {name: of[name] for name, p in model.named_parameters() if p.requires_grad}


class Adapted(nn.Module):
    """A linear layer as peft adapts it: LoRA, DoRA's magnitudes, IA3's vectors, LoHa's pairs, two adapters."""

    def __init__(self, names: tuple[str, ...] = ("default",)) -> None:
        super().__init__()
        self.base_layer = nn.Linear(8, 8)
        self.base_layer.requires_grad_(False)
        self.lora_A = nn.ModuleDict({name: nn.Linear(8, 2, bias=False) for name in names})
        self.lora_B = nn.ModuleDict({name: nn.Linear(2, 8, bias=False) for name in names})
        self.lora_embedding_A = nn.ParameterDict({name: torch.ones(2, 8) for name in names})
        self.lora_magnitude_vector = nn.ModuleDict({name: nn.LayerNorm(8, bias=False) for name in names})
        self.ia3_l = nn.ParameterDict({name: torch.ones(8, 1) for name in names})
        self.hada_w1_a = nn.ParameterDict({name: torch.ones(8, 2) for name in names})


class Saved(nn.Module):
    """A module that peft trains beside the adapters."""

    def __init__(self) -> None:
        super().__init__()
        self.original_module = nn.Linear(8, 5)
        self.original_module.requires_grad_(False)
        self.modules_to_save = nn.ModuleDict({"mine": nn.Linear(8, 5)})


def blocks(*names: str, make=Adapted, **settings) -> nn.ModuleDict:
    rows = [nn.ModuleDict({"attn": nn.ModuleDict({name: make(**settings) for name in names})}) for _ in range(2)]
    return nn.ModuleDict({"layers": nn.ModuleList(rows)})


PARTS = ("lora_A", "lora_B", "lora_embedding_A", "ia3_l", "hada_w1_a")


@pytest.mark.parametrize("adapters", [("default",), ("mine", "yours")])
@pytest.mark.parametrize("layers", [("q_proj",), ("q_proj", "v_proj")])
def test_an_adapters_matrix_is_called_by_its_layer_and_its_part(adapters, layers):
    model = blocks(*layers, names=adapters)
    assert kinds(model) == {f"{layer}.{part}" for layer in layers for part in PARTS}
    assert kinds_of(model)[f"layers.1.attn.q_proj.lora_magnitude_vector.{adapters[0]}.weight"] == (
        "q_proj.lora_magnitude_vector"
    )
    assert kinds_of(model)["layers.0.attn.q_proj.base_layer.bias"] == "q_proj"


def test_a_module_that_is_saved_with_adapters_has_its_own_name():
    assert kinds(nn.ModuleDict({**blocks("q_proj"), "score": Saved()})) == {"score", *(f"q_proj.{p}" for p in PARTS)}


class ByHand(nn.Module):
    """LoRA as people write it themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.lora_A, self.lora_B = nn.Parameter(torch.ones(2, 8)), nn.Parameter(torch.ones(8, 2))


def test_lora_by_hand():
    found = {"q.linear", "q.lora_A", "q.lora_B", "v.linear", "v.lora_A", "v.lora_B"}
    assert kinds(blocks("q", "v", make=ByHand)) == found


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (tiny_llama, {"embed_tokens", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
                      "lm_head"}),
        (tiny_gpt2, {"wte", "wpe", "c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"}),
        (lambda: nn.LSTM(3, 4, num_layers=2), {"ih", "hh"}),
        (lambda: nn.ModuleDict({"a": nn.GRU(3, 4, bidirectional=True), "b": nn.GRU(3, 4)}),
         {"a.ih", "a.hh", "b.ih", "b.hh", "ih_reverse", "hh_reverse"}),
        (lambda: nn.MultiheadAttention(4, 2, bias=False), {"in_proj", "out_proj"}),
        (lambda: nn.MultiheadAttention(4, 2, kdim=6), {"q_proj", "k_proj", "v_proj", "out_proj"}),
        (lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(4, 2, 6), 2),
         {"self_attn.in_proj", "self_attn.out_proj", "multihead_attn.in_proj", "multihead_attn.out_proj", "linear1",
          "linear2"}),
        (lambda: nn.ModuleDict({"h": nn.ModuleList([nn.ModuleDict({"mlp": nn.Sequential(nn.Linear(4, 6), nn.GELU(),
                                                                                        nn.Linear(6, 4))})])}),
         {"mlp.0", "mlp.2"}),
        (lambda: nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 4)), {"linear"}),
        (lambda: nn.ModuleDict({"up": nn.utils.parametrizations.orthogonal(nn.Linear(4, 6)), "down": nn.Linear(6, 4)}),
         {"up", "down"}),
    ],
)  # fmt: skip
def test_kinds(make, expected):
    assert kinds(make()) == expected


def test_wrappers_and_frozen_parameters_do_not_change_a_kind():
    bare = kinds_of(tiny_gpt2())
    frozen = tiny_gpt2()
    frozen.transformer.h[0].attn.requires_grad_(False)
    assert kinds_of(frozen) == bare == kinds_of(torch.compile(nn.DataParallel(tiny_gpt2()), backend="eager"))


def test_the_residual_side_of_a_kind_with_its_parent():
    sides = {layer.name: layer.residual_side for layer in select_layers(tiny_gpt2())}
    assert sides["transformer.h.1.attn.c_proj.weight"] == sides["transformer.h.1.mlp.c_proj.weight"] == "right"
