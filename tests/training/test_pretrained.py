"""Pretrained models by what a user names: what is not there, or cannot be read, is one line."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from subspace_lab.training import TrainConfig
from subspace_lab.training.models import build_model
from subspace_lab.training.pretrained import pretrained_model, pretrained_tokenizer, weight_files
from tests.training.tasks.small_models import save_encoder
from tests.training.test_gguf_files import write_gguf
from tests.training.test_models import llama, tokenizer


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


def damaged(path, share):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.5, 0.999])
def test_a_torn_gguf_file_is_one_line_for_model_and_tokenizer(tmp_path, share):
    path = tmp_path / "tiny.gguf"
    write_gguf(path, llama(len(tokenizer())), tokenizer())
    damaged(path, share)
    for load in (pretrained_model, pretrained_tokenizer):
        with pytest.raises(
            ValueError, match=r"^model '.*tiny.gguf' cannot be loaded: .*; give a whole .gguf"
        ) as caught:
            load(str(path))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
@pytest.mark.parametrize(("name", "load"), [("model.safetensors", pretrained_model), ("config.json", pretrained_model),
                                            ("tokenizer.json", pretrained_tokenizer)])  # fmt: skip
def test_a_torn_file_of_a_directory_is_one_line(tmp_path, name, share, load):
    llama(300).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    damaged(tmp_path / name, share)
    with pytest.raises(ValueError, match=f"^(model|tokenizer) '{tmp_path}' cannot be loaded: .*; ") as caught:
        load(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_refused(tmp_path):
    model = llama(300)
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"cannot be loaded: .*model.safetensors"):
        pretrained_model(str(tmp_path))


def test_weights_that_are_missing_are_not_made_up(tmp_path):
    model = llama(300)
    state = {name: tensor for name, tensor in model.state_dict().items() if "layers.1.mlp" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    line = r"lacks weights: 3 of its parameters, such as model.layers.1.mlp.down_proj.weight, would be random"
    with pytest.raises(ValueError, match=line):
        pretrained_model(str(tmp_path))
    model.model.save_pretrained(tmp_path)  # without a head
    with pytest.raises(ValueError, match=r"1 of its parameters, such as lm_head.weight, would be random"):
        pretrained_model(str(tmp_path))
    tied = llama(300, tie_word_embeddings=True)
    tied.save_pretrained(tmp_path)
    assert pretrained_model(str(tmp_path)).lm_head.weight.shape == (300, 64)


def test_an_encoder_may_lack_its_head_and_nothing_else(tmp_path):
    encoder = save_encoder(tmp_path / "encoder", ["a", "b"])
    assert pretrained_model(str(encoder), outputs=3).classifier.weight.shape == (3, 16)
    weights = load_file(encoder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "layer.1.output" not in name}
    save_file(kept, encoder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"4 of its parameters, such as bert.encoder.layer.1.output"):
        pretrained_model(str(encoder), outputs=3)


def test_the_files_of_the_weights(tmp_path):
    llama(300).save_pretrained(tmp_path, max_shard_size="100KB")
    (tmp_path / "notes.txt").write_text("no weights")
    (tmp_path / "x.gguf").touch()
    names = [file.name for file in weight_files(str(tmp_path))]
    assert len(names) > 1
    assert all(name.startswith("model-") and name.endswith(".safetensors") for name in names)
    assert weight_files(str(tmp_path / "x.gguf")) == [tmp_path / "x.gguf"]
    assert weight_files("hf:some/name") == []
