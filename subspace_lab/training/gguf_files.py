"""GGUF files, converted once into directories that transformers loads in a second.

transformers restores weights, tied embeddings, special tokens and the chat template. Two things are added: the rule by
which some byte-level vocabularies split digits, without which spaces before a number are cut otherwise than in
training, and the longest sequence of the tokenizer.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subspace_lab._extras import require
from subspace_lab.runs.files import file_hash
from subspace_lab.training.cache import cache_key, cached_path, find_cached

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Names of rules in GGUF files that split every digit off before the rule of GPT-2, as llama.cpp applies them.
_DIGITS_APART = frozenset({
    "starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b",
})  # fmt: skip


def converted(path: Path) -> Path:
    """A GGUF file as a directory of safetensors in the cache.

    Args:
        path: The file.

    Returns:
        The directory: float32 weights, configuration, tokenizer.

    Raises:
        ModuleNotFoundError: Without the package `gguf`.
        Exception: Of transformers, if it cannot read the file.
        RunError: If the cache cannot be written.
    """
    transformers, _ = require("transformers", extra="hf"), require("gguf", extra="hf")
    name = f"{path.stem}-{cache_key('gguf', file_hash(path), transformers.__version__)}"
    if (found := find_cached(name)) is not None:
        return found
    print(f"converting {path.name}; the next run finds it", file=sys.stderr, flush=True)
    model, tokenizer = _read(path)

    def save(directory: Path) -> None:
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)

    return cached_path(name, save, directory=True)


def _read(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    _split_digits(tokenizer, path)
    config = getattr(transformers, "GgufConfig", None)  # releases without it unpack every weight
    unpack = {"quantization_config": config(dequantize=True)} if config else {}
    model = AutoModelForCausalLM.from_pretrained(**where, **unpack)
    tokenizer.model_max_length = getattr(model.config, "max_position_embeddings", tokenizer.model_max_length)
    model.config.__dict__.pop("quantization_config", None)
    model.hf_quantizer = None  # it refuses to save, or to train, what it has unpacked
    return model, tokenizer


def _split_digits(tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    rule = GGUFReader(path).fields.get("tokenizer.ggml.pre")
    if rule is not None and bytes(rule.parts[rule.data[0]]).decode() in _DIGITS_APART:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ])
