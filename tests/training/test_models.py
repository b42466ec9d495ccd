"""Models of a configuration: a preset or a pretrained one, with its own tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest
import torch

from subspace_lab.training import TrainConfig
from subspace_lab.training.models import build_model, linear_layers
from subspace_lab.training.tokens import load_tokens
from tests.training.tiny import WORDS

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

LLAMA = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
         "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": False}  # fmt: skip


def tokenizer(further: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([*WORDS, *further] * 10, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<end>", bos_token="<end>", unk_token="<end>")


def llama(vocab_size: int, **changes: Any) -> LlamaForCausalLM:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    return LlamaForCausalLM(LlamaConfig(**{**LLAMA, "vocab_size": vocab_size, **changes}))


def test_a_local_directory_with_its_tokenizer(tmp_path, text):
    saved, own = llama(300).bfloat16(), tokenizer()
    saved.save_pretrained(tmp_path)
    own.save_pretrained(tmp_path)
    config = TrainConfig(model=str(tmp_path), data=str(text), sequence_length=16).resolved()
    loaded = build_model(config)
    for name, parameter in loaded.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, saved.get_parameter(name).float())
    assert loaded.training
    expected = own(text.read_text())["input_ids"]
    assert load_tokens(config).tokens.tolist() == [*expected, own.eos_token_id]


def test_sequences_longer_than_the_models_positions_are_refused(tmp_path):
    llama(300).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="sequence_length=65 exceeds the model's 64 positions"):
        build_model(TrainConfig(model=str(tmp_path), sequence_length=65).resolved())


def test_default_layers_are_the_linear_ones_of_attention_and_mlp():
    import fnmatch

    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        DistilBertConfig,
        DistilBertForSequenceClassification,
        GPT2Config,
        GPT2LMHeadModel,
    )

    gpt = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=10, n_positions=8))
    bert = BertForSequenceClassification(BertConfig(
        num_hidden_layers=1, num_attention_heads=2, hidden_size=8, intermediate_size=12, vocab_size=10
    ))  # fmt: skip
    distil = DistilBertForSequenceClassification(DistilBertConfig(n_layers=1, n_heads=2, dim=8, hidden_dim=12))
    for model, expected in ((llama(300), 14), (gpt, 4), (bert, 6), (distil, 6)):
        names = [name for name, parameter in model.named_parameters() if parameter.ndim == 2]
        chosen = {name for pattern in linear_layers(model) for name in fnmatch.filter(names, pattern)}
        assert len(chosen) == expected
        others = ("embed", "wte", "lm_head", "classifier", "pooler")
        assert not any(other in name for name in chosen for other in others)
