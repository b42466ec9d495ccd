"""Embeddings and heads stay full-rank in models of all sorts, whatever they are called there."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from subspace_lab import optim

VOCABULARY, LABELS = 97, 5  # numbers that occur nowhere else in a shape
TEXT = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4}  # fmt: skip
GROUPED = {**TEXT, "num_key_value_heads": 2}
PAIR = {"vocab_size": VOCABULARY, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}  # fmt: skip
IMAGE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 16,
         "patch_size": 8}  # fmt: skip
SOUND = {**TEXT, "conv_dim": (8, 8), "conv_kernel": (3, 3), "conv_stride": (2, 2), "num_conv_pos_embeddings": 4,
         "num_conv_pos_embedding_groups": 2}  # fmt: skip
OLD = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4}
TOKENS = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
UNTIED, LABELED = {"tie_word_embeddings": False}, {"num_labels": LABELS}
SMALL: dict[str, dict[str, Any]] = {
    "Albert/AlbertForMaskedLM": {**TEXT, "embedding_size": 16},
    "BarkFine/BarkFineModel": {"input_vocab_size": VOCABULARY, "output_vocab_size": VOCABULARY, "hidden_size": 32,
                               "num_layers": 1, "num_heads": 4, "n_codes_total": 3, "n_codes_given": 1},
    "Bart/BartForConditionalGeneration": PAIR,
    "Bart/BartForSequenceClassification": {**PAIR, **LABELED},
    "Beit/BeitForImageClassification": {**IMAGE, **LABELED, "use_relative_position_bias": True},
    "Bert/BertForMaskedLM": {**TEXT, **UNTIED},
    "Bert/BertForQuestionAnswering": {**TEXT, **LABELED},
    "Bloom/BloomForCausalLM": {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "CLIP/CLIPModel": {"text_config": {**TEXT, "max_position_embeddings": 16}, "vision_config": IMAGE,
                       "projection_dim": 16},
    "CTRL/CTRLLMHeadModel": {**OLD, "dff": 48},
    "ConvNext/ConvNextForImageClassification": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, **LABELED},
    "DebertaV2/DebertaV2ForTokenClassification": {**TEXT, **LABELED, "relative_attention": True, "position_buckets": 8,
                                                  "pos_att_type": ["p2c", "c2p"]},
    "DistilBert/DistilBertForMaskedLM": {"vocab_size": VOCABULARY, "dim": 32, "hidden_dim": 48, "n_layers": 2,
                                         "n_heads": 4, **UNTIED},
    "Electra/ElectraForMaskedLM": {**TEXT, **UNTIED, "embedding_size": 16},
    "GPT2/GPT2ForSequenceClassification": {**OLD, **LABELED},
    "GPT2/GPT2LMHeadModel": {**OLD, **UNTIED},
    "GPTNeoX/GPTNeoXForCausalLM": TEXT,
    "GptOss/GptOssForCausalLM": {**GROUPED, "num_local_experts": 4, "head_dim": 8},
    "Hubert/HubertForSequenceClassification": {**SOUND, **LABELED, "classifier_proj_size": 16},
    "JetMoe/JetMoeForCausalLM": {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "kv_channels": 8,
                                 "num_key_value_heads": 2, "intermediate_size": 48, "num_local_experts": 4,
                                 "num_experts_per_tok": 2, **TOKENS},
    "Mamba/MambaForCausalLM": {"vocab_size": VOCABULARY, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 2,
                               **UNTIED, **TOKENS},
    "Mixtral/MixtralForCausalLM": {**GROUPED, "num_local_experts": 4},
    "ModernBert/ModernBertForMaskedLM": {**TEXT, **UNTIED, **TOKENS, "cls_token_id": 0, "sep_token_id": 0},
    "MusicgenDecoder/MusicgenForCausalLM": {"vocab_size": VOCABULARY, "hidden_size": 32, "ffn_dim": 48,
                                            "num_hidden_layers": 2, "num_attention_heads": 4, "num_codebooks": 2},
    "OPT/OPTForCausalLM": {"vocab_size": VOCABULARY, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2,
                           "num_attention_heads": 4, "word_embed_proj_dim": 16},
    "Qwen3Moe/Qwen3MoeForCausalLM": {**GROUPED, "num_experts": 4, "moe_intermediate_size": 24, "head_dim": 8},
    "Roberta/RobertaForSequenceClassification": {**TEXT, **TOKENS, **LABELED},
    "Rwkv/RwkvForCausalLM": {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "context_length": 16,
                             **TOKENS},
    "Swin/SwinForImageClassification": {"image_size": 16, "patch_size": 2, "embed_dim": 16, "depths": [1, 1],
                                        "num_heads": [2, 2], "window_size": 4, **LABELED},
    "T5/T5ForConditionalGeneration": {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2,
                                      "num_heads": 4, **UNTIED},
    "ViT/ViTForImageClassification": {**IMAGE, **LABELED},
    "Wav2Vec2/Wav2Vec2ForCTC": SOUND,
    "Whisper/WhisperForConditionalGeneration": {**PAIR, **TOKENS, "num_mel_bins": 8, "max_source_positions": 16,
                                                "max_target_positions": 16},
}  # fmt: skip


class Task(nn.Module):
    """A model inside of another one, whose names have a prefix, and which has no idea of embeddings."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.network = model


def built(name: str) -> nn.Module:
    kind, _, model = name.partition("/")
    return getattr(transformers, model)(getattr(transformers, f"{kind}Config")(**SMALL[name]))


def ranked(model: nn.Module, **options: Any) -> dict[str, int]:
    """How many matrices every parameter with a rank is."""
    groups = optim.param_groups(model, rank=4, **options)
    return {name: group.get("splits", 1) for group in groups if group["rank"] for name in group["param_names"]}


@pytest.mark.parametrize("name", SMALL)
def test_embeddings_and_heads_of_transformers_stay_full_rank(name):
    model = built(name)
    expected, tables = set(), set()
    for path, module in model.named_modules():
        for attribute, p in module.named_parameters(path, recurse=False):
            if isinstance(module, nn.Embedding) or {VOCABULARY, LABELS} & set(p.shape):
                tables.add(id(p))
            elif isinstance(module, nn.Linear) and p.dim() == 2 and re.search(r"\d\..*\.weight$", attribute):
                expected.add(attribute)
    assert tables
    low = ranked(model)
    assert not [name for name, p in model.named_parameters() if name in low and id(p) in tables]
    assert expected <= set(low)
    assert set(ranked(Task(model))) == {f"network.{name}" for name in low}


@pytest.mark.parametrize("name", ["Mixtral", "GptOss", "Qwen3Moe", "JetMoe"])
def test_experts_are_as_many_matrices(name):
    model = built(next(known for known in SMALL if known.startswith(name)))
    low = ranked(model)
    three = {name: p.shape[0] for name, p in model.named_parameters() if p.dim() == 3}
    assert three
    assert {name: number for name, number in low.items() if number > 1} == three == dict.fromkeys(three, 4)


class Generic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.bag = nn.Embedding(50, 8), nn.Embedding(30, 8), nn.EmbeddingBag(6, 8)
        self.body = nn.Linear(8, 30)  # as many outputs as there are positions
        self.back = nn.Linear(30, 8)
        self.logits = nn.Linear(8, 50)
        self.second = nn.Linear(8, 30)
        self.second.weight = self.b.weight


def test_embeddings_and_heads_without_a_name_that_says_so():
    assert set(ranked(Generic())) == {"body.weight", "back.weight"}
    assert set(ranked(torch.compile(Generic(), backend="eager"))) == {"body.weight", "back.weight"}


class Unsure(nn.Module):
    """Its getters raise, return a tensor, or a list."""

    def __init__(self, answer: str) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.ones(50, 8))
        self.inner = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.answer = answer

    def get_input_embeddings(self) -> Any:
        return {"tensor": self.table, "list": [self.table], "none": None}[self.answer]

    def get_output_embeddings(self) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(("answer", "kept"), [("tensor", True), ("list", True), ("none", False), ("error", False)])
def test_getters_that_say_something_else(answer, kept):
    assert ("table" not in ranked(Unsure(answer))) == kept


def test_adaptive_softmax_is_a_head():
    model = nn.ModuleDict({"up": nn.Linear(8, 8), "loss": nn.AdaptiveLogSoftmaxWithLoss(8, 40, [4, 20])})
    assert set(ranked(model)) == {"up.weight"}


class Blocks(nn.Module):
    def __init__(self, tail: dict[str, nn.Module], width: int = 8, **inner: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleDict({"up": nn.Linear(8, width), **inner}) for _ in range(2))
        for name, module in tail.items():
            self.add_module(name, module)


def test_a_last_matrix_behind_the_blocks_is_doubtful():
    model = Blocks({"final": nn.Linear(8, 3)})
    with pytest.warns(UserWarning, match=r"final.weight is the last matrix and stands behind the blocks"):
        assert "final.weight" in ranked(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "final.weight" not in ranked(model, exclude="final.weight")
        ranked(model, targets=["*up*", "final*"])
        ranked(Blocks({}))


def test_a_layer_of_a_block_with_as_many_outputs_as_tokens_is_doubtful():
    model = Blocks({"table": nn.Embedding(24, 8)}, width=24)
    with pytest.warns(UserWarning, match=r"blocks.0.up.weight has 24 outputs, .* \(and 1 more; verbose=True"):
        assert set(ranked(model)) == {"blocks.0.up.weight", "blocks.1.up.weight"}


class Stack(nn.Module):
    """Three-dimensional parameters: a bank that nothing is known of, and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.bank = nn.Parameter(torch.ones(4, 6, 8))
        self.conv = nn.Conv1d(8, 4, 3)


class TopExperts(nn.Module):
    """A layout with names of its own; the convolution in it stays one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.ones(4, 6, 8))
        self.thin = nn.Parameter(torch.ones(4, 1, 8))
        self.first_bias = nn.Parameter(torch.ones(4, 6))
        self.experts = nn.Conv1d(8, 4, 3)


def test_which_three_dimensions_are_a_stack():
    with pytest.warns(UserWarning, match=r"bank is taken for one matrix of 4 rows; .* splits=\{'bank': 4\}"):
        assert ranked(Stack()) == {"bank": 1, "conv.weight": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ranked(Stack(), splits={"bank": 4}) == {"bank": 4, "conv.weight": 1}
        assert ranked(Stack(), splits={"bank": 1}) == {"bank": 1, "conv.weight": 1}
        assert ranked(TopExperts()) == {"first": 4, "experts.weight": 1}
        assert ranked(TopExperts(), splits={"first": 8}) == {"first": 8, "experts.weight": 1}
        assert ranked(TopExperts(), splits={"first": 1}) == {"first": 1, "experts.weight": 1}
    with pytest.raises(ValueError, match=r"splits: first of shape \(4, 6, 8\) is a stack of 4 matrices; give 4 or a"):
        ranked(TopExperts(), splits={"first": 2})


def test_what_was_decided_is_printed(capsys):
    optim.param_groups(nn.ModuleDict({"net": TopExperts(), "table": nn.Embedding(9, 4)}), rank=2, verbose=True)
    assert capsys.readouterr().out.splitlines() == [
        "net.first (4, 6, 8): rank 2, 4 matrices",
        "net.first_bias (4, 6): full-rank: its name is like '*bias'",
        "net.experts.weight (4, 8, 3): rank 2",
        "table.weight (9, 4): full-rank: held by an Embedding",
        "2 vectors and numbers: full-rank",
    ]
