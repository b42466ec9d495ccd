"""GGUF files: weights, ties, tokenizer and chat template as they were before, converted once."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from subspace_lab.training import TrainConfig, gguf_files
from subspace_lab.training.cache import cache_dir
from subspace_lab.training.models import build_model
from subspace_lab.training.pretrained import pretrained_model, pretrained_tokenizer
from subspace_lab.training.tokens import load_tokens
from tests.training.test_models import LLAMA, llama, tokenizer

TEMPLATE = "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}"


def write_gguf(path, model, own, rule=None):
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
    writer.add_chat_template(TEMPLATE)
    if rule is not None:
        writer.add_tokenizer_pre(rule)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, LLAMA["num_hidden_layers"])
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
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


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_weights_and_tokens_are_those_that_were_written(tmp_path, text):
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
    found = pretrained_tokenizer(str(path))
    assert (found.eos_token_id, found.model_max_length) == (tokens[-1], LLAMA["max_position_embeddings"])
    assert found.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False) == "<user>hello"


@pytest.mark.parametrize("tied", [True, False])
def test_ties_are_kept_and_the_model_can_be_trained(tmp_path, tied):
    own = tokenizer()
    saved = llama(len(own), tie_word_embeddings=tied)
    write_gguf(tmp_path / "tiny.gguf", saved, own)
    loaded = build_model(TrainConfig(model=str(tmp_path / "tiny.gguf"), sequence_length=16).resolved())
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
    tokens = torch.arange(16)[None]
    assert torch.equal(loaded(tokens).logits, saved.train()(tokens).logits)
    assert all(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize(("rule", "spaces"), [("smollm", 3), ("starcoder", 3), ("gpt-2", 2), (None, 2)])
def test_spaces_before_a_digit_are_cut_by_the_rule_of_the_file(tmp_path, rule, spaces):
    """Digits come off first in llama.cpp: all spaces before one are a piece then; by GPT-2's rule the last is its."""
    own = tokenizer(["    in   the    of     it"])
    assert "ĠĠĠ" in own.get_vocab()
    write_gguf(tmp_path / "tiny.gguf", llama(len(own)), own, rule)
    found = pretrained_tokenizer(str(tmp_path / "tiny.gguf")).tokenize("   5")
    assert found == (["ĠĠĠ", "5"] if spaces == 3 else ["ĠĠ", "Ġ", "5"])


def test_a_file_is_converted_once_and_a_changed_one_again(tmp_path, monkeypatch, own_cache):
    own = tokenizer()
    path = tmp_path / "tiny.gguf"
    write_gguf(path, llama(len(own)), own)
    first = pretrained_model(str(path))
    with monkeypatch.context() as patch:
        patch.setattr(gguf_files, "_read", None)
        again = pretrained_model(str(path))
    assert all(torch.equal(p, again.get_parameter(name)) for name, p in first.named_parameters())
    with torch.no_grad():
        first.model.norm.weight.fill_(2)
    write_gguf(path, first, own)
    assert (pretrained_model(str(path)).model.norm.weight == 2).all()
    assert len([entry for entry in cache_dir().iterdir() if entry.is_dir()]) == 2


def test_a_conversion_that_cannot_be_kept_is_one_line(tmp_path, monkeypatch):
    from subspace_lab.runs import RunError

    own = tokenizer()
    write_gguf(tmp_path / "tiny.gguf", llama(len(own)), own)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(RunError, match=r"cannot write .*XDG_CACHE_HOME says where it is") as caught:
        pretrained_model(str(tmp_path / "tiny.gguf"))
    assert "\n" not in str(caught.value)


def test_without_the_package_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "any.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ModuleNotFoundError, match=r"gguf is not installed; run: pip install 'subspace_lab\[hf\]'"):
        pretrained_model(str(tmp_path / "any.gguf"))
