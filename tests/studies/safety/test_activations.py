"""Defenses that look into a model: attention is found, perturbed and left; losses and gradients against twins."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from subspace_lab.studies.safety.chained import chain_gradient
from subspace_lab.studies.safety.defenses.activations import Observed, attention_blocks, block_outputs
from subspace_lab.studies.safety.stages import Chain, chain, defense
from tests.studies.safety import literal
from tests.studies.safety.bench import Bench, collate, hooks_of, tiny_model
from tests.studies.safety.test_matrix import close


def direction(parameters, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]


def slope(bench, loss, along, h=1e-6):
    """The derivative of a loss of the model along a direction, by central differences."""
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, v in zip(bench.parameters, along, strict=True):
                p += sign * h * v
            values.append(float(loss()))
            for p, v in zip(bench.parameters, along, strict=True):
                p -= sign * h * v
    return (values[0] - values[1]) / (2 * h)


def inner(gradients, along):
    return sum((g * v).sum().item() for g, v in zip(gradients, along, strict=True) if g is not None)


SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 11}
MODELS = {
    "llama": lambda: tiny_model(layers=3),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=3, n_head=2, vocab_size=11, n_positions=8)),
    "bert": lambda: BertForMaskedLM(BertConfig(**SMALL, intermediate_size=20)),
    "opt": lambda: OPTForCausalLM(OPTConfig(**SMALL, ffn_dim=20, word_embed_proj_dim=16)),
    "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SMALL, intermediate_size=20)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL, intermediate_size=20, num_key_value_heads=2)),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_attention_of_every_block_is_found(name):
    model = MODELS[name]()
    found = attention_blocks(model)
    assert len(found) == len({path for path, _ in found}) == 3
    assert all("Attention" in type(module).__name__ for _, module in found)
    assert all(module in [*model.get_submodule(path).modules()] for path, module in found)


def test_a_layer_of_torch_has_attention_too_and_a_model_without_is_refused():
    layer = nn.TransformerEncoderLayer(8, 2, 8)
    assert [path for path, _ in attention_blocks(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))] == [
        "layers.0",
        "layers.1",
    ]
    with pytest.raises(ValueError, match=r"^Sequential has no attention blocks"):
        attention_blocks(nn.Sequential(nn.Linear(2, 2)))


def with_added(bench, added):
    """The loss of the user's rows with something added to the outputs of attention, by other forward functions."""
    kept = [(module, module.forward) for _, module in attention_blocks(bench.model)]

    def other(forward, extra):
        def run(*args, **kwargs):
            first, *rest = forward(*args, **kwargs)
            return (first + extra, *rest)

        return run

    try:
        for (module, forward), extra in zip(kept, added, strict=True):
            module.forward = other(forward, extra)
        return bench.model(**bench.batch("user", 0)).loss
    finally:
        for module, _ in kept:
            del module.forward


def zeros_at_attention(bench):
    shape = (*bench.batch("user", 0)["input_ids"].shape, 16)
    return [torch.zeros(shape, dtype=torch.float64, requires_grad=True) for _ in attention_blocks(bench.model)]


@pytest.mark.parametrize("lora", [False, True])
def test_vaccine_is_its_literal_twin(lora):
    bench, rho = Bench(lora=lora), 0.7
    bench.drift()
    zeros = zeros_at_attention(bench)
    gradients = torch.autograd.grad(with_added(bench, zeros), zeros)
    added = [torch.from_numpy(eps) for eps in literal.perturbations([g.numpy() for g in gradients], rho)]
    wanted = torch.autograd.grad(with_added(bench, added), bench.parameters)
    for found, one in zip(chain_gradient(chain(f"vaccine:rho={rho}"), bench.step()), wanted, strict=True):
        close(found, one, 1e-12)


def test_the_loss_rises_by_rho_times_the_norm_where_the_perturbation_is_small():
    bench = Bench()
    zeros = zeros_at_attention(bench)
    plain = with_added(bench, zeros)
    gradients = [g.numpy() for g in torch.autograd.grad(plain, zeros)]
    for rho, most in ((1e-2, 1e-1), (1e-4, 1e-3)):
        added = [torch.from_numpy(eps) for eps in literal.perturbations(gradients, rho)]
        rise = (with_added(bench, added) - plain).item() / (rho * literal.norm(*gradients))
        assert abs(rise - 1) < most


def test_gradients_at_attention_need_one_batch_and_something_trained_before():
    bench = Bench()
    observed = Observed()
    observed(bench.model, bench.batch("user", 0))
    with pytest.raises(ValueError, match="one batch only"):
        observed(bench.model, bench.batch("user", 0))
    assert hooks_of(bench.model) == 0
    with pytest.raises(ValueError, match="no gradient reaches the attention of block 0"):
        observed.all()


def test_only_the_blocks_that_are_drawn_train():
    bench = Bench(layers=4, steps=6)
    chosen = chain("t_vaccine:blocks=2:every=3")
    bench.prepare(chosen)
    names = [name for name, p in bench.model.named_parameters()]
    before = [p.detach().clone() for p in bench.parameters]
    drawn = []
    for index in range(6):
        bench.take(chosen, index, index + 1)
        after = [p.detach().clone() for p in bench.parameters]
        changed = {n.split(".")[2] for n, a, b in zip(names, before, after, strict=True) if not torch.equal(a, b)}
        assert all("layers" in n for n, a, b in zip(names, before, after, strict=True) if not torch.equal(a, b))
        drawn.append(sorted(changed))
        before = after
    assert all(len(blocks) == 2 for blocks in drawn)
    assert drawn[0] == drawn[1] == drawn[2]
    assert drawn[3] == drawn[4] == drawn[5]
    assert [str(n) for n in bench.state["0.drawn"].tolist()] == drawn[5]


def test_the_shares_of_t_vaccine_are_those_of_the_gradients_on_harm_rows():
    bench = Bench(layers=3)
    chosen = chain("t_vaccine:blocks=1")
    bench.prepare(chosen)
    bench.user, kept = bench.pools["harm"], bench.user
    batch = bench.batch("harm", 0)
    bench.batch = lambda kind, index: batch
    zeros = zeros_at_attention(bench)
    norms = [literal.norm(g.numpy()) for g in torch.autograd.grad(with_added(bench, zeros), zeros)]
    bench.user = kept
    chain_gradient(chosen, bench.step())
    close(bench.state["0.p"], [one / sum(norms) for one in norms], 1e-12)


def softmax_losses(model, batch):
    """``-log p`` of every token of the responses, row by row."""
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.numpy()
    return token_losses(logits, batch["labels"].numpy())


def token_losses(logits, labels):
    found = []
    for row, marks in zip(logits, labels, strict=True):
        places = [at for at in range(1, len(marks)) if marks[at] != -100]
        found.append([math.log(sum(math.exp(x) for x in row[at - 1])) - row[at - 1][marks[at]] for at in places])
    return found


def test_constrained_tuning_is_plain_while_the_model_is_the_aligned_one():
    bench = Bench()
    plain = chain_gradient(Chain(), bench.step())
    for found, one in zip(chain_gradient(chain("constrained_sft"), bench.step()), plain, strict=True):
        close(found, one, 1e-14)


@pytest.mark.parametrize("lora", [False, True])
def test_constrained_tuning_is_its_literal_twin(lora):
    bench = Bench(lora=lora)
    bench.drift()
    batch = bench.batch("user", 0)
    now, before = softmax_losses(bench.model, batch), softmax_losses(bench.aligned, batch)
    strengths = [0.3 * 5, 0.3 * 20, *[0.3] * 9]
    weights = [
        literal.constrained_weights(np.subtract(b, n), strengths[: len(n)]) for n, b in zip(now, before, strict=True)
    ]
    assert max(map(len, now)) > 2

    def loss():
        rows = softmax_losses(bench.model, batch)
        return sum(float(w @ row) for w, row in zip(weights, rows, strict=True)) / sum(map(len, rows))

    along = direction(bench.parameters)
    found = chain_gradient(chain("constrained_sft:beta=0.3:length=2"), bench.step())
    assert inner(found, along) == pytest.approx(slope(bench, loss, along), rel=1e-6)
    assert inner(found, along) != pytest.approx(inner(bench.step().user(), along), rel=1e-3)


def test_the_loss_of_repnoise_is_its_literal_twin():
    bench, kept = Bench(layers=3), []
    batch = bench.batch("harm", 2)
    handle = bench.model.model.norm.register_forward_pre_hook(lambda _, args: kept.append(args[0].detach()))
    with torch.no_grad():
        out = bench.model(**{k: v for k, v in batch.items() if k != "labels"}, output_hidden_states=True)
    handle.remove()
    states = [*out.hidden_states[1:3], kept[0]]
    head, labels = bench.model.lm_head.weight.detach().numpy(), batch["labels"].numpy()
    losses = [token_losses(h.numpy() @ head.T, labels) for h in states[:2]] + [token_losses(out.logits.numpy(), labels)]
    ascent = math.log(np.mean([np.mean([loss for row in rows for loss in row]) for rows in losses]))
    seed = int(np.random.SeedSequence([bench.seed, 2]).generate_state(1, np.uint64)[0]) >> 1
    draw, distances = torch.Generator().manual_seed(seed), []
    for h in states:
        X = h[batch["attention_mask"].bool()]
        distances.append(literal.mmd(X.numpy(), torch.randn(X.shape, generator=draw, dtype=torch.float64).numpy()))
    wanted = 0.4 * np.mean(distances) - 0.2 * ascent
    made = defense("repnoise:alpha=0.2:beta=0.4")
    found = made.harmful_loss(bench.model, batch, seed=bench.seed, index=2)
    assert found.item() == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("lora", [False, True])
def test_the_gradient_of_repnoise_by_finite_differences(lora):
    bench, made = Bench(lora=lora), defense("repnoise:alpha=0.5:beta=0.5")
    bench.drift()
    bench.prepare(Chain((made,)))
    along = direction(bench.parameters)

    def loss():
        harm = made.harmful_loss(bench.model, bench.batch("harm", 1), seed=bench.seed, index=1)
        return harm + bench.model(**bench.batch("user", 1)).loss

    found = chain_gradient(Chain((made,)), bench.step(1))
    assert inner(found, along) == pytest.approx(slope(bench, loss, along), rel=1e-6)


def test_what_blocks_give_is_collected_and_the_hooks_are_removed():
    bench = Bench(layers=3)
    with block_outputs(bench.model) as found:
        out = bench.model(**bench.batch("user", 0), output_hidden_states=True)
    assert [*found] == ["model.layers.0", "model.layers.1", "model.layers.2"]
    for one, other in zip([*found.values()][:2], out.hidden_states[1:3], strict=True):
        assert torch.equal(one, other)
    before = hooks_of(bench.model)
    with pytest.raises(RuntimeError, match="fails"), block_outputs(bench.model):
        raise RuntimeError("fails")
    assert hooks_of(bench.model) == before


@pytest.mark.parametrize("text", ["asft", "asft:projector=topk:k=3"])
@pytest.mark.parametrize("lora", [False, True])
def test_asft_is_the_gradient_of_its_penalty_on_the_effective_update(text, lora):
    bench = Bench(lora=lora)
    bench.drift()
    names = [*bench.run().matrices()]
    assert len(names) == 14  # seven in each of two blocks; neither embeddings nor head
    aligned, base = dict(bench.aligned.named_parameters()), dict(bench.base.named_parameters())
    maps = {}
    for name in names:
        V = (aligned[name] - base[name]).detach().numpy()
        maps[name] = literal.topk_map(V, 3) if "topk" in text else literal.frobenius_map(V)

    def updates():
        if not lora:
            now = dict(bench.model.named_parameters())
            return {name: (now[name] - aligned[name]).detach() for name in names}
        parts = dict(bench.model.named_parameters())
        paths = {name: name.removesuffix(".weight") for name in names}
        return {
            name: 2 * (parts[f"{path}.lora_B.default.weight"] @ parts[f"{path}.lora_A.default.weight"]).detach()
            for name, path in paths.items()
        }

    def penalty():
        return sum(literal.asft_penalty(D.numpy(), maps[name]) for name, D in updates().items())

    chosen = chain(f"{text}:lam=0.7")
    bench.prepare(chosen)
    step = bench.step()
    user, along = step.user(), direction(bench.parameters)
    added = [g - u for g, u in zip(chain_gradient(chosen, step), user, strict=True)]
    assert inner(added, along) == pytest.approx(0.7 * slope(bench, penalty, along), rel=1e-6)


def test_the_twin_of_a_model_is_another_model():
    """What the tests above compare with does not share weights with what they test."""
    bench = Bench()
    twin = copy.deepcopy(bench.model)
    bench.drift()
    batch = collate(bench.user[:2])
    assert not torch.equal(bench.model(**batch).logits, twin(**batch).logits)
