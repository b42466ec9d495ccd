"""LoRA by peft: what it adds to the weights, what is trained and kept, and how it is named."""

from __future__ import annotations

import copy
import dataclasses
import random
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch.func import functional_call

from subspace_lab.capture.layers import select_layers
from subspace_lab.optim import param_groups
from subspace_lab.optim.clipping import AdaptiveGroupClipper
from subspace_lab.runs import Run, RunError
from subspace_lab.training import RestoredCheckpoints, TrainConfig, add_lora, effective_updates, train
from subspace_lab.training.checkpoint import checkpoint_path, checkpoint_steps, model_tensors
from subspace_lab.training.models import build_model, linear_layers
from tests.training.tasks.small_models import save_encoder, write_rows
from tests.training.test_models import llama, tokenizer
from tests.training.test_resume import content, interrupted
from tests.training.tiny import tiny_config

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

SPREAD = {"initializer_range": 0.2}  # outputs of the size of one


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=50, n_positions=32, **SPREAD))


def roberta():
    from transformers import RobertaConfig, RobertaForSequenceClassification

    return RobertaForSequenceClassification(
        RobertaConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, vocab_size=50,
            max_position_embeddings=40, num_labels=3, **SPREAD,
        )
    )  # fmt: skip


MODELS = {"llama": lambda: llama(50, **SPREAD), "gpt2": gpt2, "roberta": roberta}
# Attention and MLP of a block, counted by hand.
LINEAR = {"llama": 7, "gpt2": 4, "roberta": 6}


def adapted(make, rank=3, **options):
    """A model with adapters whose B is not zero any more, and the same model without."""
    torch.manual_seed(0)
    model = make().eval()
    plain = copy.deepcopy(model)
    add_lora(model, rank=rank, **options)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    return model, plain


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_the_update_is_alpha_over_r_times_b_a_and_nothing_else_changes(make):
    model, plain = adapted(make)
    tokens = torch.randint(2, 50, (2, 12))
    updates = dict(effective_updates(model))
    own = dict(model.named_parameters())
    for name, update in updates.items():
        path = name.removesuffix(".weight")
        A, B = own[f"{path}.lora_A.default.weight"], own[f"{path}.lora_B.default.weight"]
        expected = (6 / 3) * (B @ A)
        expected = expected.T if type(plain.get_submodule(path)).__name__ == "Conv1D" else expected
        torch.testing.assert_close(update, expected, rtol=1e-6, atol=1e-8)
        assert torch.linalg.matrix_rank(update) == 3
    merged = {name: p + updates.get(name, 0) for name, p in plain.named_parameters()}
    expected = functional_call(plain, merged, (tokens,)).logits
    torch.testing.assert_close(model(tokens).logits, expected, rtol=0, atol=1e-5)
    assert (plain(tokens).logits - expected).abs().max() > 0.01


@pytest.mark.parametrize("name", MODELS)
def test_by_default_all_linear_layers_of_attention_and_mlp_get_one(name):
    model, plain = adapted(MODELS[name])
    changed = {path.removesuffix(".weight") for path, _ in effective_updates(model)}
    assert len(changed) == 2 * LINEAR[name]
    assert not any(word in path for path in changed for word in ("embed", "wte", "wpe", "head", "classifier", "norm"))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    head = {name for name, _ in plain.named_parameters() if name.startswith("classifier.")}
    assert trained == head | {f"{path}.lora_{part}.default.weight" for path in changed for part in "AB"}
    assert len(head) == (4 if name == "roberta" else 0)


@pytest.mark.parametrize("name", MODELS)
def test_new_adapters_change_nothing_yet(name):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    tokens = torch.randint(2, 50, (2, 12))
    before = model(tokens).logits
    add_lora(model, rank=2)
    assert torch.equal(model(tokens).logits, before)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [(["q_proj"], 2), (["q_proj", "v_proj"], 4), (["*.mlp.*"], 6), (["model.layers.1.self_attn.q_proj"], 1),
     (["lm_head"], 1), (["self_attn.k_proj", "*k_proj"], 2)],
)  # fmt: skip
def test_targets_are_names_and_globs(targets, expected):
    model, _ = adapted(MODELS["llama"], targets=targets)
    assert len([*effective_updates(model)]) == expected


@pytest.mark.parametrize(("target", "nearest"), [("q_prj", "q_proj"), ("*.mpl.*", ""), ("embed_tokens", ""), ("", "")])
def test_a_target_that_matches_nothing_is_one_line(target, nearest):
    with pytest.raises(
        ValueError, match=f"matches no linear layer of LlamaForCausalLM; nearest: .*{nearest}"
    ) as caught:
        add_lora(llama(50), rank=2, targets=["q_proj", target])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adapter": "dora"}, "adapter must be one of 'lora'"),
        ({"adapter_rank": 8}, "adapter_rank=8 has no effect without adapter"),
        ({"adapter_targets": ("q_proj",)}, "adapter_targets=.* has no effect without adapter"),
        ({"adapter": "lora", "adapter_rank": 0}, "adapter_rank must be"),
        ({"adapter": "lora", "adapter_targets": ()}, "adapter_targets is empty"),
        ({"adapter": "lora", "adapter_targets": "q_proj"}, "adapter_targets must be a tuple of patterns"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings)


def test_the_rank_is_eight_and_configurations_without_adapters_are_as_before():
    config = TrainConfig(adapter="lora", adapter_targets=["q_proj"]).resolved()
    assert (config.adapter_rank, config.adapter_targets) == (8, ("q_proj",))
    assert TrainConfig.from_dict(config.to_dict()) == config
    assert not [name for name in TrainConfig().resolved().to_dict() if name.startswith("adapter")]


def test_without_the_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModuleNotFoundError, match=r"peft is not installed; run: pip install 'subspace_lab\[peft\]'"):
        add_lora(llama(50), rank=2)


def test_captured_layers_are_called_by_their_projection_and_part():
    model, _ = adapted(MODELS["llama"])
    layers = select_layers(model, linear_layers(model))
    assert {layer.kind for layer in layers} == {f"{name}.lora_{part}" for name in PROJECTIONS for part in "AB"}
    assert {layer.depth for layer in layers} == {0, 1}
    sides = {layer.kind: layer.residual_side for layer in layers if layer.residual_side}
    reads, writes = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"), ("o_proj", "down_proj")
    expected = {f"{name}.lora_A": "right" for name in reads} | {f"{name}.lora_B": "left" for name in writes}
    assert sides == expected
    for layer in layers:
        stream = {"left": layer.rows, "right": layer.cols}.get(layer.residual_side, 64)
        assert stream == 64


def test_the_clipper_has_a_group_for_the_parts_of_every_projection():
    model, _ = adapted(MODELS["llama"])
    clip = AdaptiveGroupClipper(model)
    assert set(clip.groups) == {f"{name}.lora_{part}" for name in PROJECTIONS for part in "AB"}
    assert all(len(members) == 2 for members in clip.groups.values())


def test_low_rank_optimizers_give_the_adapters_a_rank():
    model, _ = adapted(MODELS["llama"])
    (group,) = param_groups(model, rank=2)
    assert len(group["params"]) == 28
    assert all(".lora_" in name for name in group["param_names"])


@pytest.fixture
def config(tmp_path, text):
    """LoRA of a pretrained model in a directory."""
    own = tokenizer()
    llama(len(own)).save_pretrained(tmp_path / "model")
    own.save_pretrained(tmp_path / "model")
    return tiny_config(text, preset=None, model=str(tmp_path / "model"), adapter="lora", adapter_rank=2, warmup=1)


@pytest.mark.parametrize("optimizer", ["adamw", "grasswalk"])
def test_only_adapters_are_trained_and_kept(tmp_path, config, optimizer):
    config = dataclasses.replace(config, optimizer=optimizer, rank=None if optimizer == "adamw" else 2)
    model = build_model(config.resolved())
    run = train(tmp_path / "run", config, model=model)
    kept = model_tensors(run, checkpoint_steps(run)[-1])
    assert len(kept) == 28
    assert all(".lora_" in name for name in kept)
    plain = build_model(dataclasses.replace(config, adapter=None, adapter_rank=None).resolved())
    for name, p in plain.named_parameters():
        layer, _, attribute = name.rpartition(".")
        there = f"{layer}.base_layer.{attribute}" if layer.endswith(PROJECTIONS) else name
        assert torch.equal(model.get_parameter(there), p)
    *_, (_, restored) = RestoredCheckpoints.of(Run.open(run)).models()
    for (name, update), (_, again) in zip(effective_updates(model), effective_updates(restored), strict=True):
        assert update.abs().max() > 0, name
        assert torch.equal(update, again)
    kinds = {row["kind"] for row in Run.open(run).manifest["layers"]}
    assert kinds == {f"{name}.lora_{part}" for name in PROJECTIONS for part in "AB"}
    size = checkpoint_path(run, checkpoint_steps(run)[-1]).stat().st_size
    assert size < sum(p.nbytes for p in plain.parameters())


@pytest.mark.parametrize("optimizer", ["adamw", "grassjump"])
def test_resumed_is_bit_for_bit_as_without_interruption(tmp_path, config, monkeypatch, optimizer):
    config = dataclasses.replace(config, optimizer=optimizer, rank=None if optimizer == "adamw" else 2)
    whole = train(tmp_path / "whole", config)
    interrupted(tmp_path / "run", config, 5, monkeypatch)
    train(tmp_path / "run", resume=True)
    assert content(tmp_path / "run") == content(whole)


def test_an_encoder_trains_its_adapters_and_its_new_head(tmp_path, monkeypatch):
    """All else is as in the file; and resuming gives the same bits."""
    words = ("good", "bad", "very", "film", "this")
    save_encoder(tmp_path / "encoder", words)
    draw = random.Random(0)
    texts = [" ".join(draw.choices(words, k=5)) for _ in range(80)]
    rows = [{"text": text, "label": "positive" if "good" in text else "negative"} for text in texts]
    config = tiny_config(
        write_rows(tmp_path / "rows.jsonl", rows), preset=None, model=str(tmp_path / "encoder"), task="sentiment",
        adapter="lora", adapter_rank=2, adapter_targets=("query", "value"), warmup=1,
    )  # fmt: skip
    run = train(tmp_path / "run", config)
    kept = model_tensors(run, checkpoint_steps(run)[-1])
    assert {name for name in kept if ".lora_" not in name} == {"classifier.weight", "classifier.bias"}
    assert len(kept) == 2 + 2 * 2 * 2
    *_, (_, restored) = RestoredCheckpoints.of(Run.open(run)).models()
    saved = load_file(tmp_path / "encoder" / "model.safetensors")
    names = [name for name in saved if name.startswith("bert.encoder.")]
    assert len(names) == 2 * 16
    for name in names:
        layer, _, attribute = name.rpartition(".")
        there = f"{layer}.base_layer.{attribute}" if layer.endswith(("query", "value")) else name
        assert torch.equal(restored.get_parameter(there), saved[name])
    interrupted(tmp_path / "again", config, 5, monkeypatch)
    train(tmp_path / "again", resume=True)
    assert content(tmp_path / "again") == content(run)


def test_the_same_adapters_on_another_model_are_refused(tmp_path, config, monkeypatch):
    interrupted(tmp_path / "run", config, 5, monkeypatch)
    other = llama(len(tokenizer()))
    with torch.no_grad():
        other.model.layers[1].mlp.up_proj.weight.mul_(1.001)
    other.save_pretrained(tmp_path / "model")
    with pytest.raises(RunError, match="has adapters of another model than this one; restore the model it began with"):
        train(tmp_path / "run", resume=True)


def test_the_noise_and_the_hessian_of_a_run_are_those_of_the_adapters(tmp_path, config):
    from subspace_lab.analysis import hessian_of_run, noise_of_run

    run = Run.open(train(tmp_path / "run", dataclasses.replace(config, adapter_targets=("k_proj",))))
    checkpoints = RestoredCheckpoints.of(run)
    layers = {row["name"] for row in run.manifest["layers"]}
    assert len(layers) == 4
    noise = noise_of_run(run, checkpoints)["noise"]
    assert {name for name in noise["layer"].unique() if "." in name} == layers
    hessian = hessian_of_run(run, checkpoints, k=1, sequences=2, tol=0.1)["hessian"]
    assert {name for name in hessian["layer"].unique() if "." in name} == layers


def test_a_model_without_adapters_has_no_updates():
    with pytest.raises(ValueError, match="LlamaForCausalLM has no LoRA adapters"):
        next(effective_updates(llama(50)))
