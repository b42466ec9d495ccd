"""Repairs on a model with full weights and with adapters against literal twins; what a run offers them."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from subspace_lab.studies.safety.chained import chain_repair
from subspace_lab.studies.safety.context import RunContext
from subspace_lab.studies.safety.linear import linear_layers, weight_of, weights_by_name, write_weight
from subspace_lab.studies.safety.stages import chain
from subspace_lab.training.adapters import add_lora
from tests.studies.safety import literal
from tests.studies.safety.bench import Bench, collate, moved, tiny_model
from tests.studies.safety.test_matrix import close

ways = pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])


def tuned(lora):
    bench = Bench(lora=lora)
    bench.drift()
    return bench


def weights(bench):
    """All weights without adapters, these merged by hand."""
    found = {}
    parts = {name: p.detach() for name, p in bench.model.named_parameters()}
    for name, p in parts.items():
        if "lora_" not in name:
            path = name.removesuffix(".weight").removesuffix(".base_layer")
            B, A = (parts.get(f"{path}.lora_{which}.default.weight") for which in "BA")
            found[name.replace(".base_layer", "")] = p.clone() if A is None else p + 2 * B @ A
    return found


def of(model):
    return {name: p.detach() for name, p in model.named_parameters()}


def repaired(text, bench):
    chain_repair(chain(text), bench.run(rows=[]))
    return weights(bench)


def inputs_of(bench, name, kind, count):
    """The inputs of a layer on rows, one at a time and so without padding."""
    kept = []
    layer = bench.model.get_submodule(name.removesuffix(".weight"))
    handle = layer.register_forward_pre_hook(lambda _, args: kept.append(args[0].detach()[0]))
    with torch.no_grad():
        for one in bench.pools[kind][:count]:
            bench.model(input_ids=collate([one])["input_ids"])
    handle.remove()
    return torch.cat(kept).numpy()


@ways
def test_a_run_gives_effective_weights_updates_and_what_alignment_changed(lora):
    bench = tuned(lora)
    run, now, aligned, base = bench.run(), weights(bench), of(bench.aligned), of(bench.base)
    assert sorted(run.weights()) == sorted(now) == sorted(aligned)
    assert sorted(run.matrices()) == sorted(n for n in now if "proj" in n)
    for name in run.weights():
        close(run.weight(name), now[name], 1e-15)
        close(run.update(name), now[name] - aligned[name], 1e-15)
        close(run.alignment(name), aligned[name] - base[name], 0)


def test_the_update_of_an_adapter_is_not_rounded_to_the_precision_of_the_weight():
    bench = tuned(lora=True)
    bench.model.float()
    with torch.no_grad():
        for name, p in bench.model.named_parameters():
            if "lora_B" in name:
                p *= 1e-7
    name = "model.layers.0.mlp.up_proj.weight"
    layer = bench.run().matrices()[name]
    B, A = layer.lora_B.default.weight.detach(), layer.lora_A.default.weight.detach()
    torch.testing.assert_close(bench.run().update(name), 2 * B @ A, rtol=1e-6, atol=0)


@ways
def test_what_is_written_is_what_the_model_computes_with(lora):
    bench = tuned(lora)
    run = bench.run()
    wanted = {name: W + 0.01 * torch.ones_like(W) for name, W in weights(bench).items()}
    for name, W in wanted.items():
        run.write(name, W)
    plain = tiny_model(layers=2)
    plain.load_state_dict(wanted)
    assert all(torch.equal(W, wanted[name]) for name, W in weights(bench).items())
    batch = collate(bench.user)
    close(bench.model(**batch).logits, plain(**batch).logits.detach(), 1e-13)


@ways
def test_the_second_moment_of_inputs_is_that_of_the_tokens_of_the_rows(lora):
    bench = tuned(lora)
    run = bench.run()
    for name in ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"):
        for kind, count in (("harm", 10), ("safety", 5)):
            X = inputs_of(bench, name, kind, count)
            close(run.inputs(name, kind, None if count == 10 else count), X.T @ X / len(X), 1e-12)


def test_one_pass_over_the_rows_serves_all_matrices_of_a_size(monkeypatch):
    bench = tuned(lora=False)
    calls, plain = [], bench.run().batches
    run = bench.run(batches=lambda chosen: calls.append(1) or plain(chosen))
    moments = {name: run.inputs(name, "harm") for name in run.matrices()}
    assert len(calls) == 1
    monkeypatch.setattr("subspace_lab.studies.safety.linear._MOST_BYTES", 3 * 4 * 16**2)
    split = bench.run(batches=lambda chosen: calls.append(1) or plain(chosen))
    for name, moment in moments.items():
        close(split.inputs(name, "harm"), moment, 1e-14)
    assert len(calls) > 4


def test_more_rows_than_there_are_is_an_error():
    run = tuned(lora=False).run()
    with pytest.raises(ValueError, match=r"^11 safety rows are needed, the pool has 10; ask for fewer$"):
        run.inputs("model.layers.0.mlp.up_proj.weight", "safety", 11)


@ways
def test_resta_adds_what_alignment_changed_to_all_weights(lora):
    bench = tuned(lora)
    before, base, aligned = weights(bench), of(bench.base), of(bench.aligned)
    for name, W in repaired("resta:gamma=0.3", bench).items():
        close(W, before[name] + 0.3 * (aligned[name] - base[name]), 1e-15)


@ways
def test_resta_of_nothing_is_the_same_bits(lora):
    bench = tuned(lora)
    before = {name: p.detach().clone() for name, p in bench.model.named_parameters()}
    repaired("resta:gamma=0", bench)
    assert all(torch.equal(p, before[name]) for name, p in bench.model.named_parameters())


def test_resta_undoes_a_tuning_that_undid_the_alignment():
    bench = Bench()
    bench.model.load_state_dict(bench.base.state_dict())
    for name, W in repaired("resta:gamma=1", bench).items():
        close(W, of(bench.aligned)[name], 1e-15)


def test_dropped_entries_of_the_update_are_made_up_for_on_average():
    name, draws, lora = "model.layers.0.mlp.up_proj.weight", 40, False
    found = []
    for seed in range(draws):
        bench = tuned(lora)
        bench.seed = seed
        found.append(repaired("resta:gamma=0:drop=0.4", bench)[name] - of(bench.aligned)[name])
    D = weights(tuned(lora))[name] - of(bench.aligned)[name]
    kept = torch.stack(found).abs() > 1e-14
    close(torch.stack(found)[kept], (D / 0.6).expand(draws, *D.shape)[kept], 1e-12)
    n = kept.numel()
    assert abs(kept.double().mean().item() - 0.6) < 4 * (0.24 / n) ** 0.5
    sd = (D.square() * (1 / 0.6 - 1) / draws).sqrt()
    assert ((torch.stack(found).mean(0) - D).abs() / sd).square().mean().item() == pytest.approx(1, abs=0.3)


@ways
@pytest.mark.parametrize("kind", ["frobenius", "topk"])
def test_safe_lora_is_its_literal_twin(lora, kind):
    bench = tuned(lora)
    before, base, aligned = weights(bench), of(bench.base), of(bench.aligned)
    maps, updates, cosines = {}, {}, {}
    for name in bench.run().matrices():
        V = (aligned[name] - base[name]).numpy()
        D = updates[name] = (before[name] - aligned[name]).numpy()
        C = maps[name] = literal.topk_map(V, 4) if kind == "topk" else literal.frobenius_map(V)
        cosines[name] = (C @ D * D).sum() / literal.norm(C @ D) / literal.norm(D)
    tau = sum(sorted(cosines.values())[5:7]) / 2  # six of them are below
    found = repaired(f"safelora:projector={kind}:k=4:tau={tau}", bench)
    assert bench.state["0.projected"] == 6
    assert all(torch.equal(W, before[name]) for name, W in found.items() if name not in maps)
    for name, C in maps.items():
        D = updates[name]
        close(found[name], aligned[name].numpy() + literal.safelora(D, C, tau), 1e-12)
        assert bench.state[f"0.{name}.cosine"] == pytest.approx(cosines[name], abs=1e-12)
        assert bench.state[f"0.{name}.gain"] == pytest.approx(literal.norm(C @ D) / literal.norm(D), abs=1e-12)
        error = literal.norm(C @ C - C) / literal.norm(C)
        assert bench.state[f"0.{name}.idempotence_error"] == pytest.approx(error, abs=1e-12)


def test_safe_lora_projects_the_matrices_with_the_lowest_cosines():
    bench = tuned(lora=False)
    before = weights(bench)
    found = repaired("safelora:matrices=3", bench)
    cosines = {name: bench.state[f"0.{name}.cosine"] for name in before if "proj" in name}
    changed = {name for name in before if not torch.equal(found[name], before[name])}
    assert changed == {*sorted(cosines, key=cosines.get)[:3]}
    with pytest.raises(ValueError, match=r"^safelora:matrices=15, but 14 were changed; ask for fewer$"):
        repaired("safelora:matrices=15", tuned(lora=False))


def test_antidote_on_full_weights_is_its_literal_twin():
    bench = tuned(lora=False)
    before = weights(bench)
    norms = {name: np.linalg.norm(inputs_of(bench, name, "harm", 10), axis=0) for name in before if "proj" in name}
    for name, W in repaired("antidote:share=0.2", bench).items():
        close(W, literal.antidote(before[name].numpy(), norms[name], 0.2) if name in norms else before[name], 0)


def test_antidote_on_adapters_prunes_a_and_b_by_their_own_inputs():
    bench = tuned(lora=True)
    parts = {name: p.detach().clone() for name, p in bench.model.named_parameters()}
    wanted = dict(parts)
    for name in bench.run().matrices():
        path, X = name.removesuffix(".weight"), inputs_of(bench, name, "harm", 10)
        A, B = (f"{path}.lora_{which}.default.weight" for which in "AB")
        for part, inputs in ((A, X), (B, X @ parts[A].numpy().T)):
            pruned = literal.antidote(parts[part].numpy(), np.linalg.norm(inputs, axis=0), 0.3)
            wanted[part] = torch.from_numpy(pruned)
    chain_repair(chain("antidote:share=0.3"), bench.run(rows=[]))
    for name, p in bench.model.named_parameters():
        close(p.detach(), wanted[name], 0)


def test_a_share_of_less_than_an_entry_is_refused():
    with pytest.raises(ValueError, match=r"^antidote:share=0.01 of the longest row is less than one entry"):
        repaired("antidote:share=0.01", tuned(lora=False))


@ways
def test_safe_delta_is_its_literal_twin(lora):
    bench = tuned(lora)
    before, aligned = weights(bench), of(bench.aligned)
    names = ["model.layers.0.self_attn.v_proj.weight", "model.layers.1.mlp.gate_proj.weight"]
    inputs = {name: inputs_of(bench, name, "safety", 7) for name in names}
    found = repaired("safedelta:s=0.02:rows=7", bench)
    for name, X in inputs.items():
        H = 2 * X.T @ X / len(X)
        wanted = literal.safedelta(aligned[name].numpy(), before[name].numpy(), H, 0.02, 0.01)
        close(found[name], wanted, 1e-9)
        assert (wanted != before[name].numpy()).any()
    assert all(torch.equal(found[name], before[name]) for name in before if "proj" not in name)


@ways
def test_safe_delta_with_no_budget_is_aligned_and_with_all_of_it_tuned(lora):
    bench = tuned(lora)
    for name, W in repaired("safedelta:s=0:rows=5", bench).items():
        if "proj" in name:
            assert torch.equal(W, of(bench.aligned)[name])
    bench = tuned(lora)
    before = weights(bench)
    for name, W in repaired("safedelta:s=1e9:rows=5", bench).items():
        close(W, before[name], 1e-15)


def test_lox_extrapolates_what_alignment_changed_in_linear_layers():
    bench = Bench()  # the model is the aligned one
    base, aligned = of(bench.base), of(bench.aligned)
    for name, W in repaired("lox:k=3:c=1.5", bench).items():
        V = (aligned[name] - base[name]).numpy()
        close(W, aligned[name].numpy() + literal.lox(V, 3, 1.5) if "proj" in name else aligned[name], 1e-12)


def test_panacea_ends_on_its_last_perturbation():
    bench = Bench(steps=2)
    chosen = chain("panacea:rho=0.5")
    bench.take(chosen, 0, 1)
    h = [g.clone() for g in bench.step(1).harm()]
    bench.take(chosen, 1, 2)
    before = [p.detach().clone() for p in bench.parameters]
    chain_repair(chosen, bench.run(rows=[]))
    norm = literal.norm(*[g.numpy() for g in h])
    for p, old, g in zip(bench.parameters, before, h, strict=True):
        close(p.detach(), old + 0.5 * g / norm, 1e-14)


def gpt2():
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=2, n_head=2, vocab_size=11, n_positions=8)).double().eval()


@ways
def test_weights_that_are_stored_the_other_way_round_are_given_as_outputs_by_inputs(lora):
    base = gpt2()
    aligned = moved(base, 1, 0.1)
    model = moved(aligned, 2, 0.05)
    if lora:
        model = moved(aligned, 2, 0.0)
        add_lora(model, rank=2)
        model.double()
        with torch.no_grad():
            for name, p in model.named_parameters():
                if "lora_B" in name:
                    p += 0.1 * torch.randn_like(p)
    earlier = {"base": lambda: of(base), "aligned": lambda: of(aligned)}
    run = RunContext(model=model, rows=[], state={}, pools={}, batches=lambda _: [], earlier=earlier)
    assert "lm_head.weight" not in run.weights()  # it is the embedding
    assert len(run.matrices()) == 8
    name = "transformer.h.0.attn.c_attn.weight"
    V = (of(aligned)[name] - of(base)[name]).T
    close(run.alignment(name), V, 0)
    assert run.update(name).shape == (24, 8)
    x = torch.randn(5, 8, dtype=torch.float64)
    layer = run.matrices()[name]
    close((x @ run.weight(name).T), (layer(x) - layer(torch.zeros_like(x))).detach(), 1e-14)
    D = run.update(name).numpy()
    chain_repair(chain("safelora:tau=1:projector=topk:k=2"), run)
    close(run.weight(name), of(aligned)[name].T.numpy() + literal.topk_map(V.numpy(), 2) @ D, 1e-12)


def test_layers_are_those_in_blocks_or_all_but_the_head():
    assert len(linear_layers(tiny_model())) == 21
    assert [*linear_layers(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)))] == ["0.weight", "2.weight"]
    assert [*linear_layers(nn.Linear(2, 3))] == ["weight"]
    with pytest.raises(ValueError, match=r"^Embedding has no linear layers"):
        linear_layers(nn.Embedding(2, 2))


def test_a_single_layer_is_read_and_written():
    layer = nn.Linear(2, 3)
    assert [*weights_by_name(layer)] == ["weight", "bias"]
    write_weight(layer, torch.ones(3, 2))
    assert torch.equal(weight_of(layer, less=torch.ones(3, 2)), torch.zeros(3, 2))
