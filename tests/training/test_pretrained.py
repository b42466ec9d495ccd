"""Pretrained models by what a user names: what is not there, or cannot be read, is one line."""

from __future__ import annotations

import pytest

from subspace_lab.training import TrainConfig
from subspace_lab.training.models import build_model
from subspace_lab.training.pretrained import weight_files
from tests.training.test_models import llama


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


def test_the_files_of_the_weights(tmp_path):
    llama(300).save_pretrained(tmp_path, max_shard_size="100KB")
    (tmp_path / "notes.txt").write_text("no weights")
    (tmp_path / "x.gguf").touch()
    names = [file.name for file in weight_files(str(tmp_path))]
    assert len(names) > 1
    assert all(name.startswith("model-") and name.endswith(".safetensors") for name in names)
    assert weight_files(str(tmp_path / "x.gguf")) == [tmp_path / "x.gguf"]
    assert weight_files("hf:some/name") == []
