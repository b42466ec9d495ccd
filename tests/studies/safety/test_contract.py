"""What every shipped defense keeps to, on full weights and on adapters: one suite, joined by a line each."""

import dataclasses
import functools
from contextlib import suppress

import pytest
import torch

from subspace_lab.studies.safety.chained import chain_gradient, chain_prepare, chain_repair
from subspace_lab.studies.safety.context import StepContext
from subspace_lab.studies.safety.stages import DEFENSES, Chain, chain, defense
from tests.studies.safety.bench import Bench, hooks_of

# A setting under which each acts in a short training, its options, and the passes of six steps.
SUITE = {
    "vaccine": ("vaccine:rho=0.5", ("rho",), 12),
    "t_vaccine": ("t_vaccine:blocks=1:every=2:weigh_every=3", ("rho", "blocks", "every", "weigh_every"), 14),
    "booster": ("booster", ("lam", "alpha"), 18),
    "repnoise": ("repnoise", ("alpha", "beta"), 12),
    "lox": ("lox:k=3", ("c", "k"), 6),
    "safeinstruct": ("safeinstruct:rows=7", ("rows",), 6),
    "rehearsal": ("rehearsal", ("rho",), 12),
    "lisa": ("lisa:safety_steps=1:user_steps=2", ("rho", "safety_steps", "user_steps", "prox_after"), 6),
    "safegrad": ("safegrad", ("rho", "loss"), 12),
    "spf": ("spf:k=2:every=4", ("k", "every"), 8),
    "constrained_sft": ("constrained_sft", ("beta", "first", "prefix", "length"), 6),
    "asft": ("asft:projector=topk:k=3", ("lam", "projector", "k"), 6),
    "panacea": ("panacea", ("lam", "rho"), 18),
    "resta": ("resta:drop=0.3", ("gamma", "drop"), 0),
    "safelora": ("safelora:projector=topk:k=2", ("tau", "matrices", "projector", "k"), 0),
    "antidote": ("antidote:share=0.3", ("share",), 0),
    "safedelta": ("safedelta:s=0.001:rows=8", ("s", "rows", "damping"), 0),
}
# The weights of the short training along one direction, by revision: who changes what a defense makes raises it.
PINNED = {
    ("antidote", 1): 3.340422616,
    ("asft", 1): -7.121521939,
    ("booster", 1): -7.937598867,
    ("constrained_sft", 1): -7.079638903,
    ("lisa", 1): -7.167572526,
    ("lox", 1): -7.624679611,
    ("panacea", 1): -9.594791589,
    ("rehearsal", 1): -7.462965841,
    ("repnoise", 1): -7.140716231,
    ("resta", 1): -5.109102371,
    ("safedelta", 1): -7.918287493,
    ("safegrad", 1): -7.228273615,
    ("safeinstruct", 1): -7.058893402,
    ("safelora", 1): -7.638022334,
    ("spf", 1): -7.113147067,
    ("t_vaccine", 1): -7.255759332,
    ("vaccine", 1): -7.447194550,
}
SHIPPED = [name for name in DEFENSES if DEFENSES[name].__module__.startswith("subspace_lab.")]
WRONG = [
    "vaccine:rho=-1", "t_vaccine:rho=-1", "t_vaccine:blocks=0", "t_vaccine:every=0", "t_vaccine:weigh_every=0",
    "booster:lam=-1", "booster:alpha=nan", "repnoise:alpha=-1", "repnoise:beta=inf", "lox:k=0", "lox:c=-1",
    "safeinstruct:rows=0", "rehearsal:rho=-1", "lisa:rho=-1", "lisa:safety_steps=0", "lisa:user_steps=0",
    "lisa:prox_after=1", "safegrad:rho=-1", "spf:k=0", "spf:every=0", "constrained_sft:beta=-1",
    "constrained_sft:first=-1", "constrained_sft:prefix=-1", "constrained_sft:length=0", "asft:lam=-1", "asft:k=0",
    "panacea:lam=-1", "panacea:rho=-1", "resta:gamma=-1", "resta:drop=1", "safelora:tau=nan", "safelora:matrices=0",
    "safelora:k=0", "antidote:share=1", "antidote:share=-0.1", "safedelta:s=-1", "safedelta:rows=0",
    "safedelta:damping=0",
]  # fmt: skip
ways = pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
every = pytest.mark.parametrize("name", SHIPPED)


def chain_of(name):
    return chain(SUITE[name][0])


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_every_shipped_defense_is_in_the_suite():
    assert sorted(SUITE) == sorted(SHIPPED)


@every
def test_it_is_frozen_and_has_the_options_of_its_contract(name):
    one = defense(name)
    assert tuple(field.name for field in dataclasses.fields(one)) == SUITE[name][1]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(one, SUITE[name][1][0], 1)
    assert DEFENSES.text(one) == name
    assert one.stage in one.__module__
    assert (one.arxiv == "") == (name == "rehearsal")


@functools.cache
def undisturbed(name, lora):
    """The weights after all hooks, and the passes."""
    bench = Bench(lora=lora).whole(chain_of(name))
    return bench.effective(), bench.passes


@functools.cache
def undefended(lora, is_repaired):
    bench = Bench(lora=lora)
    if is_repaired:
        bench.drift()
    else:
        bench.take(Chain(), 0, bench.steps)
    return bench.effective()


@ways
@every
def test_it_changes_what_is_trained(name, lora):
    acted, passes = undisturbed(name, lora)
    assert not same(acted, undefended(lora, defense(name).stage == "repair")), f"{name} is inert"
    assert all(torch.isfinite(w).all() for w in acted.values())
    assert passes == SUITE[name][2]


@every
def test_what_it_makes_is_pinned_to_its_revision(name):
    draw = torch.Generator().manual_seed(7)
    weights = undisturbed(name, False)[0].values()
    along = sum((W * torch.randn(W.shape, generator=draw, dtype=W.dtype)).sum().item() for W in weights)
    assert along == pytest.approx(PINNED[name, DEFENSES[name].revision], abs=1e-7)


@ways
@every
def test_it_does_the_same_again_and_a_training_that_is_cut_off_goes_on_as_if_it_was_not(name, lora):
    chosen, wanted = chain_of(name), undisturbed(name, lora)[0]
    if defense(name).stage == "repair":
        assert same(Bench(lora=lora).whole(chosen).effective(), wanted)
        return
    first = Bench(lora=lora)
    first.prepare(chosen)
    first.take(chosen, 0, 3)
    second = Bench(lora=lora)
    second.prepare(chosen)
    second.restore(first.saved())
    second.take(chosen, 3, second.steps)
    chain_repair(chosen, second.run(rows=[]))
    assert same(second.effective(), wanted)


@ways
@every
def test_the_model_is_left_as_it_was_but_for_what_is_asked(name, lora):
    bench, chosen = Bench(lora=lora), chain_of(name)
    before, modes = hooks_of(bench.model), [module.training for module in bench.model.modules()]
    bench.prepare(chosen)
    bench.drift()
    bits = [p.detach().clone() for p in bench.model.parameters()]
    if defense(name).stage != "repair":
        chain_gradient(chosen, bench.step())
        assert all(torch.equal(p, kept) for p, kept in zip(bench.model.parameters(), bits, strict=True))
    chain_repair(chosen, bench.run(rows=[])) if name != "panacea" else None
    assert hooks_of(bench.model) == before
    assert [module.training for module in bench.model.modules()] == modes
    assert all(p.grad is None for p in bench.model.parameters())


@every
def test_hooks_and_weights_are_put_back_when_the_model_fails(name):
    bench, chosen = Bench(), chain_of(name)
    bench.prepare(chosen)
    bench.drift()
    bits, before = [p.detach().clone() for p in bench.parameters], hooks_of(bench.model)
    failures = 0
    for fail_at in range(1, 5):
        calls = []

        def fails(*_, calls=calls, fail_at=fail_at):
            calls.append(1)
            if len(calls) == fail_at:
                raise RuntimeError("fails")

        handle = bench.model.lm_head.register_forward_hook(fails)
        with suppress(RuntimeError):
            if defense(name).stage == "repair":
                chain_repair(chosen, bench.run(rows=[]))
            else:
                chain_gradient(chosen, bench.step())
        handle.remove()
        if len(calls) == fail_at:
            failures += 1
            assert hooks_of(bench.model) == before
            assert all(torch.equal(p, kept) for p, kept in zip(bench.parameters, bits, strict=True))
    assert failures or name in {"resta", "safelora"}  # which do not run the model


@pytest.mark.parametrize("text", WRONG)
def test_an_option_that_cannot_be_is_refused_in_one_line(text):
    with pytest.raises(ValueError, match=text.split(":")[1].split("=")[0]) as caught:
        defense(text)
    assert "\n" not in str(caught.value)


def test_every_option_that_is_a_number_is_checked():
    checked = {text.split("=")[0] for text in WRONG}
    for name in SHIPPED:
        for field in dataclasses.fields(DEFENSES[name]):
            assert "Literal" in str(field.type) or f"{name}:{field.name}" in checked


@every
def test_what_it_says_it_needs_it_needs(name):
    """Without it there is one clear line."""
    needs = defense(name).needs
    for missing in needs - {"matrices"}:
        bench = Bench()
        bench.drift()
        given = {"earlier": {k: v for k, v in bench.run().earlier.items() if k != missing}}
        given["pools"] = {k: v for k, v in bench.pools.items() if k != missing}
        if name == "safegrad" and missing == "aligned":
            continue  # the study's loss has that model, not the step
        losses, weights = bench.losses(0), {k: v for k, v in bench.step()._weights.items() if k != missing}

        def parts(kind, loss, losses=losses, missing=missing):
            return [] if kind == missing else losses(kind, loss)

        step = StepContext(bench.parameters, parts, weights=weights, state=bench.state, total=1)

        def all_hooks(step=step, run=bench.run(**given)):  # noqa: B008
            chain_prepare(chain_of(name), run)
            if defense(name).stage != "repair":
                chain_gradient(chain_of(name), step)
            chain_repair(chain_of(name), run)

        with pytest.raises(ValueError, match=missing) as caught:
            all_hooks()
        assert "\n" not in str(caught.value)
