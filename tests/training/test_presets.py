"""Sizes against parameter counts that are known from elsewhere."""

from dataclasses import replace

import pytest
import torch

from subspace_lab.training import PRESETS, TrainConfig, parameter_shapes, preset
from subspace_lab.training.models import build_model

# LLaMA-7B as published by its authors' release; the others as reported by the low-rank literature (in millions).
REPORTED = {"llama-7b": 6738.415616, "llama-60m": 58, "llama-130m": 134, "llama-350m": 368, "llama-1b": 1339}


def count(size):
    """Parameters of a LLaMA, by its architecture."""
    h, i = size.hidden_size, size.intermediate_size
    return 2 * size.vocab_size * h + size.num_layers * (4 * h * h + 3 * h * i + 2 * h) + h


@pytest.mark.parametrize(("name", "millions"), REPORTED.items())
def test_sizes_have_the_reported_parameter_counts(name, millions):
    assert count(PRESETS[name]) / 1e6 == pytest.approx(millions, rel=1e-9 if name == "llama-7b" else 5e-3)


def test_small_sizes_are_what_they_are_called():
    assert count(PRESETS["llama-2m"]) == 1_852_544
    assert count(PRESETS["llama-7m"]) == 7_344_384
    assert PRESETS["llama-7m"].num_layers >= 8


@pytest.mark.parametrize("name", ["llama-2m", "llama-7m", "llama-60m"])
def test_the_model_is_built_of_that_size(name):
    from transformers import LlamaConfig

    with torch.device("meta"):
        model = build_model(TrainConfig(preset=name).resolved())
    assert sum(parameter.numel() for parameter in model.parameters()) == count(PRESETS[name])
    assert isinstance(model.config, LlamaConfig)


def test_heads_divide_the_width():
    assert all(size.hidden_size % (2 * size.num_heads) == 0 for size in PRESETS.values())


def test_weights_are_a_function_of_the_seed_alone():
    config = TrainConfig(preset="tiny", seed=3).resolved()
    first = build_model(config).state_dict()
    torch.rand(5)
    again, other = (
        build_model(config).state_dict(),
        build_model(TrainConfig(preset="tiny", seed=4).resolved()).state_dict(),
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ValueError, match=r"there is no preset 'llama-60'; nearest: llama-60m \("):
        preset("llama-60")


@pytest.mark.parametrize("name", PRESETS)
def test_shapes_are_those_of_the_model_that_is_built(name):
    """Of transformers' own, on the meta device; of the large ones two blocks are built."""
    size = replace(PRESETS[name], num_layers=min(2, PRESETS[name].num_layers))
    with torch.device("meta"), pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "short", size)
        model = build_model(TrainConfig(preset="short", seed=0).resolved())
    assert parameter_shapes(size) == {key: tuple(p.shape) for key, p in model.named_parameters()}
    blocks = {key.split(".")[2] for key in parameter_shapes(PRESETS[name]) if ".layers." in key}
    assert blocks == {str(block) for block in range(PRESETS[name].num_layers)}


@pytest.mark.parametrize(("name", "rank"), [("llama-1b", 512), ("llama-60m", 128), ("llama-2m", 32), ("llama-20m", 64)])
def test_the_rank_is_the_published_one_or_a_quarter_of_the_width(name, rank):
    assert preset(name).usual_rank == rank
