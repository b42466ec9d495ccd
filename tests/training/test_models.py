"""Pretrained models: from a directory and from a GGUF file, with their own tokenizer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
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


def tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(WORDS * 10, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<end>", bos_token="<end>", unk_token="<end>")


def llama(vocab_size: int) -> LlamaForCausalLM:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **LLAMA))


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


def write_gguf(path, model, own):
    """The model as llama.cpp keeps it: rows of q and k permuted, float32."""
    import gguf

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_block_count(LLAMA["num_hidden_layers"])
    writer.add_context_length(LLAMA["max_position_embeddings"])
    writer.add_embedding_length(LLAMA["hidden_size"])
    writer.add_feed_forward_length(LLAMA["intermediate_size"])
    writer.add_head_count(LLAMA["num_attention_heads"])
    writer.add_head_count_kv(LLAMA["num_attention_heads"])
    writer.add_layer_norm_rms_eps(LLAMA["rms_norm_eps"])
    writer.add_vocab_size(model.config.vocab_size)
    vocabulary = sorted(own.get_vocab(), key=own.get_vocab().get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_merges([" ".join(pair) for pair in merges_of(own)])
    writer.add_eos_token_id(own.eos_token_id)
    writer.add_bos_token_id(own.bos_token_id)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, LLAMA["num_hidden_layers"])
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        if "q_proj" in name or "k_proj" in name:
            heads = LLAMA["num_attention_heads"]
            halves = array.reshape(heads, 2, array.shape[0] // heads // 2, -1)
            array = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(array.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def merges_of(own):
    return json.loads(own.backend_tokenizer.to_str())["model"]["merges"]


def test_a_gguf_file_with_its_tokenizer(tmp_path, text):
    from transformers import AutoTokenizer

    own = tokenizer()
    saved = llama(len(own))
    path = tmp_path / "tiny.gguf"
    write_gguf(path, saved, own)
    config = TrainConfig(model=str(path), data=str(text), sequence_length=16).resolved()
    loaded = build_model(config)
    for name, parameter in loaded.named_parameters():
        torch.testing.assert_close(parameter, saved.get_parameter(name), rtol=0, atol=0)
    tokens = load_tokens(config).tokens
    assert tokens[:-1].tolist() == own(text.read_text())["input_ids"]
    assert AutoTokenizer.from_pretrained(str(tmp_path), gguf_file="tiny.gguf").eos_token_id == tokens[-1]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nowhere", "'nowhere' does not exist; write hf:nowhere for a model of the hub"),
        ("{here}", "cannot be loaded: .*; give hf:<name>, a directory or a .gguf"),
        ("{here}/bad.gguf", "cannot be loaded: "),
    ],
)
def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path, model, message):
    (tmp_path / "bad.gguf").write_bytes(b"not one")
    config = TrainConfig(model=model.format(here=tmp_path)).resolved()
    with pytest.raises(ValueError, match=message) as caught:
        build_model(config)
    assert "\n" not in str(caught.value)


def test_sequences_longer_than_the_models_positions_are_refused(tmp_path):
    llama(300).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="sequence_length=65 exceeds the model's 64 positions"):
        build_model(TrainConfig(model=str(tmp_path), sequence_length=65).resolved())


def test_default_layers_are_the_linear_ones_of_attention_and_mlp():
    import fnmatch

    from transformers import GPT2Config, GPT2LMHeadModel

    gpt = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=10, n_positions=8))
    for model, expected in ((llama(300), 14), (gpt, 4)):
        names = [name for name, parameter in model.named_parameters() if parameter.ndim == 2]
        chosen = {name for pattern in linear_layers(model) for name in fnmatch.filter(names, pattern)}
        assert len(chosen) == expected
        assert not any("embed" in name or "wte" in name or "lm_head" in name for name in chosen)
