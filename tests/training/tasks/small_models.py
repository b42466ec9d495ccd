"""Pretrained models of a few thousand parameters, saved as transformers saves them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch

CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def write_rows(path: Path, rows: Iterable[dict]) -> Path:
    """A jsonl file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def save_causal(path: Path, *, chat: str | None = None) -> Path:
    """A LLaMA with a tokenizer of bytes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    marks = [AddedToken(mark, special=True) for mark in ("<|end|>", "<|user|>", "<|system|>", "<|assistant|>")]
    tokenizer.train_from_iterator(
        ["the name of a thing"], trainers.BpeTrainer(vocab_size=270, special_tokens=marks, initial_alphabet=alphabet)
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    fast.chat_template = chat
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            vocab_size=tokenizer.get_vocab_size(), bos_token_id=None, eos_token_id=0, max_position_embeddings=512,
            initializer_range=0.3,
        )
    )  # fmt: skip
    model.generation_config.do_sample, model.generation_config.repetition_penalty = True, 3.0
    model.save_pretrained(path)
    fast.save_pretrained(path)
    return path


def save_encoder(path: Path, words: Iterable[str]) -> Path:
    """A BERT with a tokenizer of words."""
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    path.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(words)]
    (path / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    torch.manual_seed(0)
    model = BertForMaskedLM(
        BertConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            vocab_size=len(vocabulary), max_position_embeddings=128, initializer_range=0.2,
        )
    )  # fmt: skip
    model.save_pretrained(path)
    BertTokenizerFast(vocab=str(path / "vocab.txt")).save_pretrained(path)
    return path
