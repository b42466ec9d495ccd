"""The counted bytes against the bytes of the tensors that training really makes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from subspace_lab import optim
from tests.optim.test_memory import most_held

NAMES = ["GrassWalk", "GrassJump", "SubTrack", "GaLore", "GoLore", "LDAdam", "Fira", "APOLLO", "FRUGAL",
         "OnlineSubspaceDescent", "RSO", "BAdam", "FastGrassWalk", "FastGrassJump", "DCTAdamW"]  # fmt: skip
every_method = pytest.mark.parametrize("name", NAMES)
RANK, BASES = 4, {"basis", "indices"}


def llama(dtype: torch.dtype = torch.float32, **settings) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 40, **settings}
    return LlamaForCausalLM(LlamaConfig(num_attention_heads=2, **config)).to(dtype)


def set_gradients(model: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype) if p.requires_grad else None


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_states_weights_and_gradients_are_exact(name, dtype):
    model = llama(dtype)
    model.lm_head.weight.requires_grad_(False)
    report = optim.memory_report(model, name, rank=RANK)
    optimizer = getattr(optim, name)(optim.param_groups(model, rank=RANK), lr=1e-3, update_interval=2)
    kept = {"states": 0, "bases": 0}
    for seed in range(12):
        set_gradients(model, seed)
        optimizer.step()
        sizes = {"states": 0, "bases": 0}
        for state in optimizer.state.values():
            for key, value in state.items():
                if isinstance(value, torch.Tensor):
                    sizes["bases" if key in BASES else "states"] += value.nbytes
        kept = {part: max(kept[part], size) for part, size in sizes.items()}
    assert (report.method, report.states, report.bases) == (name, kept["states"], kept["bases"])
    assert report.optimizer == report.states + report.bases
    assert report.weights == sum(p.nbytes for p in model.parameters())
    assert report.gradients == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    assert report.total == report.weights + report.gradients + report.optimizer + report.refresh_workspace


def test_adamw():
    model = llama()
    report = optim.memory_report(model, "AdamW")
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    set_gradients(model, 0)
    optimizer.step()
    assert report.states == sum(value.nbytes for state in optimizer.state.values() for value in state.values())
    assert (report.bases, report.refresh_workspace) == (0, 0)


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(96, 256), (256, 96), (128, 128)], ids=str)
def test_the_workspace_is_what_a_refresh_holds(name, shape, dtype):
    """No less than what the refresh adds to the step, and no more than what the step holds."""
    report = optim.memory_report({"layers.0.up.weight": shape}, name, rank=16, dtype=dtype)
    held = {}
    for interval in (1000, 1):
        p = torch.nn.Parameter(torch.zeros(shape, dtype=dtype))
        optimizer = getattr(optim, name)([{"params": [p], "rank": 16}], update_interval=interval)
        for seed in range(3):
            p.grad = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
            step = optimizer.step
            held[interval] = most_held(step) if seed == 2 else step()
    if name == "BAdam":
        assert report.refresh_workspace == 0
        return
    assert held[1] - held[1000] <= report.refresh_workspace <= 1.02 * held[1]


def test_models_that_are_not_there():
    """On the meta device, or as shapes alone, or wrapped: one count."""
    model = llama()
    report = optim.memory_report(model, "GrassWalk", rank=RANK)
    with torch.device("meta"):
        assert optim.memory_report(llama(), "GrassWalk", rank=RANK) == report
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert optim.memory_report(shapes, "GrassWalk", rank=RANK) == report
    assert optim.memory_report(shapes, optim.GrassWalk, rank=RANK) == report
    wrapper = torch.nn.Module()
    wrapper.add_module("_orig_mod", model)
    assert optim.memory_report(wrapper, "GrassWalk", rank=RANK) == report


def test_the_1b_model_of_the_literature_by_hand():
    """24 blocks of width 2048 and 5461, rank 512: the numbers of GaLore and AdamW from their formulas, in float32."""
    h, inner, vocabulary, r, blocks = 2048, 5461, 32_000, 512, 24
    shapes = {
        "model.embed_tokens.weight": (vocabulary, h),
        "lm_head.weight": (vocabulary, h),
        "model.norm.weight": (h,),
    }
    for i in range(blocks):
        for kind in ("q_proj", "k_proj", "v_proj", "o_proj"):
            shapes[f"model.layers.{i}.self_attn.{kind}.weight"] = (h, h)
        for kind, shape in (("gate_proj", (inner, h)), ("up_proj", (inner, h)), ("down_proj", (h, inner))):
            shapes[f"model.layers.{i}.mlp.{kind}.weight"] = shape
        for kind in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{i}.{kind}.weight"] = (h,)
    linear = blocks * (4 * h * h + 3 * h * inner)
    rest, num_rest = 2 * vocabulary * h + (2 * blocks + 1) * h, 2 + 2 * blocks + 1
    adamw = optim.memory_report(shapes, "AdamW")
    assert adamw.weights == adamw.gradients == 4 * (linear + rest)
    assert adamw.states == 8 * (linear + rest) + 4 * len(shapes)
    galore = optim.memory_report(shapes, "GaLore", rank=r)
    assert galore.bases == 4 * blocks * 7 * h * r
    assert galore.states == 4 * blocks * 2 * r * (4 * h + 3 * inner) + 8 * rest + 4 * num_rest
    walk = optim.memory_report(shapes, "GrassWalk", rank=r)
    assert walk.optimizer == galore.optimizer + 4 * 7 * blocks
    assert walk.refresh_workspace < galore.refresh_workspace
    halved = optim.memory_report(shapes, "GaLore", rank=r, dtype=torch.bfloat16, state_dtype="bfloat16")
    assert halved.optimizer - 4 * num_rest == (galore.optimizer - 4 * num_rest) / 2


# Numbers kept per matrix, m <= n, as the papers count them, by (m, n, r); and bytes of indices.
PUBLISHED = {
    "GrassWalk": lambda m, n, r: (m * r, 2 * n * r + 1),
    "GrassJump": lambda m, n, r: (m * r, 2 * n * r + 1),
    "SubTrack": lambda m, n, r: (m * r, 2 * n * r + 1),
    "GaLore": lambda m, n, r: (m * r, 2 * n * r),
    "GoLore": lambda m, n, r: (m * r, 2 * n * r),
    "LDAdam": lambda m, n, r: (m * r, 2 * n * r + m * n),
    "Fira": lambda m, n, r: (m * r, 2 * n * r + 1),
    "APOLLO": lambda m, n, r: (0, 2 * n * r + 1),
    "FRUGAL": lambda m, n, r: (2 * r, 2 * n * r),  # an index has eight bytes
    "OnlineSubspaceDescent": lambda m, n, r: (m * r, 2 * m * r + 2 * n * r),
    "RSO": lambda m, n, r: (0, 3 * n * r),
    "BAdam": lambda m, n, r: (0, 2 * m * n),
    "FastGrassWalk": lambda m, n, r: (r, 2 * n * r + 1),  # an index has four bytes
    "FastGrassJump": lambda m, n, r: (0, 2 * n * r + 1),
    "DCTAdamW": lambda m, n, r: (r, 2 * n * r + m * n),
}


@every_method
@pytest.mark.parametrize("shape", [(48, 80), (80, 48), (48, 48)], ids=str)
@pytest.mark.parametrize("rank", [1, 12, 48, 60])
def test_one_matrix_by_the_formulas_of_the_papers(name, shape, rank):
    report = optim.memory_report({"layers.0.up.weight": shape}, name, rank=rank)
    m, n = sorted(shape)
    bases, states = PUBLISHED[name](m, n, min(rank, m))
    assert (report.bases, report.states) == (4 * bases, 4 * states)
    assert report.weights == report.gradients == 4 * m * n


def test_the_papers_formulas_are_of_all_methods():
    assert {*PUBLISHED, "AdamW"} == {method.__name__ for method in optim.METHODS.values()}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("GrasWalk",), ["'GrasWalk'", "nearest: GrassWalk", "BAdam"]),
        (("adam",), ["'adam'", "nearest: AdamW;"]),
        (("online",), ["'online'", "nearest: OnlineSubspaceDescent;"]),
    ],
    ids=str,
)
def test_methods_that_there_are_not(arguments, expected):
    with pytest.raises(ValueError, match="no optimizer is called") as caught:
        optim.memory_report({"up.weight": (8, 16)}, *arguments)
    for part in expected:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"rank": 0}, "rank must be a whole number of at least 1"),
        ({"rank": 2, "walk_stepp": 0.1}, "has no option 'walk_stepp'"),
        ({"rank": 2, "targets": "*.attention.*"}, "matches no matrix"),
        ({"rank": 2, "state_dtype": "int8"}, "state_dtype must be"),
        ({"rank": None}, "rank must be a whole number of at least 1, got None"),
        ({"rank": 2, "splits": 3}, "up.weight: splits=3 does not divide its 8 rows"),
        ({"rank": 2, "dtype": "bfloat16"}, "dtype must be a floating-point one of torch's"),
    ],
    ids=str,
)
def test_bad_settings(settings, match):
    with pytest.raises(ValueError, match=match):
        optim.memory_report({"up.weight": (8, 16)}, "GrassWalk", **settings)


def test_adamw_has_no_options():
    with pytest.raises(ValueError, match="AdamW has no option 'state_dtype'"):
        optim.memory_report({"up.weight": (8, 16)}, "AdamW", state_dtype="bfloat16")


def test_names_of_methods():
    assert optim.method_named("grass-walk") is optim.method_named("GrassWalk") is optim.GrassWalk
    assert optim.method_named("online_subspace_descent") is optim.OnlineSubspaceDescent
    assert optim.method_named("adamw") is torch.optim.AdamW


@pytest.mark.parametrize("method", [torch.optim.SGD, torch.optim.Adam, dict, None, 3], ids=str)
def test_what_is_no_method(method):
    with pytest.raises(ValueError, match=r"^method must be torch's AdamW, an optimizer of subspace_lab.optim, or its"):
        optim.memory_report({"up.weight": (8, 16)}, method)


@pytest.mark.parametrize("method", ["AdamW", "GaLore", "BAdam"])
@pytest.mark.parametrize(
    ("shapes", "match"),
    [
        ({}, "no parameter to train"),
        (nn.Linear(3, 4).requires_grad_(False), "no parameter to train"),
        ([(8, 16)], "a mapping of names to shapes is needed, got list"),
        ({"up": 3}, "the shape of up must be a tuple of whole numbers of at least 1, got 3"),
        ({"up": (-8, 16)}, r"the shape of up must be a tuple of whole numbers of at least 1, got \(-8, 16\)"),
    ],
    ids=str,
)
def test_what_is_no_model(method, shapes, match):
    with pytest.raises(ValueError, match=match):
        optim.memory_report(shapes, method, rank=2)


def test_a_model_has_a_dtype_of_its_own():
    with pytest.raises(ValueError, match=r"dtype=torch.bfloat16 has no effect on a model"):
        optim.memory_report(nn.Linear(8, 16), "GaLore", rank=2, dtype=torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.int8, torch.cfloat], ids=str)
def test_parameters_that_no_optimizer_trains(dtype):
    with pytest.raises(
        ValueError, match=r"^dtype must be a floating-point one of torch's, torch.bfloat16, got [^\n]*$"
    ):
        optim.memory_report({"up.weight": (8, 16)}, "GaLore", rank=2, dtype=dtype)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"rule": "newton"}, "rule must be one of 'coordinates', 'dct', .*whose bytes are known, got 'newton'"),
        ({"rule": "svd", "walk_step": 0.1}, "SubspaceAdam has no option 'walk_step'"),
    ],
    ids=str,
)
def test_parts_that_there_are_not(settings, match):
    with pytest.raises(ValueError, match=match):
        optim.memory_report({"up.weight": (8, 16)}, optim.SubspaceAdam, rank=2, **settings)
