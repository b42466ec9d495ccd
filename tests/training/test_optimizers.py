"""Every optimizer in a training run: the steps that it should take, exact resumption, and one line for each mistake."""

from __future__ import annotations

import json
import re

import pytest
import torch

from subspace_lab import optim
from subspace_lab.runs import Run, RunError
from subspace_lab.runs.snapshot import Snapshot
from subspace_lab.training import TrainConfig, stored_config, train
from subspace_lab.training.checkpoint import checkpoint_path, checkpoint_steps
from subspace_lab.training.models import build_model
from subspace_lab.training.optimizers import build_optimizer, settle_optimizer
from tests.training.test_resume import content, interrupted
from tests.training.tiny import tiny_config

INTERVAL = 4
FURTHER = {  # beside rank 3 and the interval
    "GrassWalk": {"walk_step": 0.3, "zeta": None},
    "SubTrack": {"step_size": 0.1},
    "GoLore": {"random_after": 5},
    "APOLLO": {"scaling": "tensor"},
    "FRUGAL": {"density": 0.5},
    "RSO": {"prox": 2.0},
    "SubspaceAdam": {"rule": "coordinates", "moments": "reset", "recovery": "scaled", "zeta": None},
}
NAMES = [*(method.__name__ for method in optim.METHODS.values()), "SubspaceAdam"]


def config_of(name, text, **changes):
    low = {} if name == "AdamW" else {"update_interval": INTERVAL}
    low |= {} if name in {"AdamW", "BAdam"} else {"rank": 3}
    return tiny_config(text, optimizer=name, optimizer_options=FURTHER.get(name), **{**low, **changes})


def by_hand(name, model, config):
    """The optimizer as a user builds it."""
    shared = {"betas": (0.908, 0.99) if name == "LDAdam" else (0.9, 0.999), "weight_decay": config.weight_decay}
    if name == "AdamW":
        return torch.optim.AdamW(model.parameters(), **shared, fused=True)
    groups = optim.param_groups(model, rank=None if name == "BAdam" else 3)
    settings = {"update_interval": INTERVAL, "seed": config.seed, **FURTHER.get(name, {})}
    return getattr(optim, name)(groups, **shared, **settings)


@pytest.mark.parametrize("name", NAMES)
def test_the_run_takes_the_steps_that_its_captured_gradients_say(name, text, tmp_path):
    """Gradients are captured before clipping and step; the parameters at the end follow from them bit for bit."""
    changes = {"layers": ("*",), "every": 1, "keep": "full", "seed": 3, "weight_decay": 0.1, "clip": 0.5}
    config = config_of(name, text, **changes)
    run = Run.open(train(tmp_path / "run", config))
    model = build_model(config.resolved())
    optimizer = by_hand(name, model, config)
    parameters = {layer: dict(model.named_parameters())[layer] for layer in run.layers["name"]}
    assert len(parameters) == 16  # seven in each block, embeddings and head
    clipped = False
    for step, norm, lr in run.metrics[["step", "grad_norm", "lr"]].itertuples(index=False):
        factor = min(1.0, float(torch.tensor(0.5) / (torch.tensor(norm) + 1e-6)))
        clipped |= factor < 1
        for layer, p in parameters.items():
            p.grad = run.gradient(step, layer) * factor
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
    assert clipped
    with Snapshot(checkpoint_path(run.path, checkpoint_steps(run.path)[-1])) as file:
        for layer, p in parameters.items():
            assert torch.equal(file.get("model", layer), p), layer


@pytest.mark.parametrize("name", NAMES[1:])
def test_an_interrupted_run_goes_on_to_the_same_bits(name, text, tmp_path, monkeypatch):
    """Interrupted right before the second refresh, and for BAdam the third block."""
    config = config_of(name, text)
    whole = train(tmp_path / "whole", config)
    interrupted(tmp_path / "run", config, 2 * INTERVAL - 1, monkeypatch)
    train(tmp_path / "run", resume=True)
    assert content(tmp_path / "run") == content(whole)


@pytest.mark.parametrize("name", ["GrassWalk", "BAdam"])
def test_between_two_refreshes_too(name, text, tmp_path, monkeypatch):
    config = config_of(name, text, accumulation=1, precision="bfloat16")
    whole = train(tmp_path / "whole", config)
    interrupted(tmp_path / "run", config, INTERVAL + 1, monkeypatch)
    train(tmp_path / "run", config, resume=True)
    assert content(tmp_path / "run") == content(whole)


def test_the_refresh_after_resuming_is_one(text, tmp_path):
    """What the tests above rest on: bases change in the steps that they say."""
    bases = []
    for steps in (8, 9):
        path = train(tmp_path / str(steps), config_of("GrassJump", text, steps=steps, checkpoint_every=steps, warmup=1))
        with Snapshot(checkpoint_path(path, steps)) as file:
            state = file.context["state"]["0"]
            bases.append((state["step"], state["refreshes"]))
    assert bases == [(8, 1), (9, 2)]


def test_the_manifest_records_what_was_used(text, tmp_path):
    path = train(tmp_path / "run", tiny_config(text, optimizer="grass-walk", optimizer_options={"walk-step": 0.2}))
    values = Run.open(path).manifest["config"]
    recorded = {name: values[name] for name in ("optimizer", "rank", "update_interval", "scale", "betas")}
    assert recorded == {
        "optimizer": "grasswalk", "rank": 4, "update_interval": 200, "scale": 1.0, "betas": [0.9, 0.999]
    }  # fmt: skip
    assert values["optimizer_options"] == {"walk_step": 0.2}
    assert stored_config(path).to_dict() == values


def test_a_run_of_a_release_without_these_settings_goes_on(text, tmp_path, monkeypatch):
    config = tiny_config(text)
    whole = train(tmp_path / "whole", config)
    interrupted(tmp_path / "run", config, 5, monkeypatch)
    path = tmp_path / "run" / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in ("rank", "update_interval", "scale", "optimizer_options"):
        del manifest["config"][name]
    path.write_text(json.dumps(manifest))
    train(tmp_path / "run", config, resume=True)
    assert content(tmp_path / "run") == content(whole)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"optimizer": "galore"}, "optimizer 'grasswalk' -> 'galore'"),
        ({"rank": 4}, "rank 3 -> 4"),
        ({"optimizer_options": {"walk_step": 0.1}}, r"optimizer_options \{'walk_step': 0.3, 'zeta': None\} -> \{"),
    ],
    ids=str,
)
def test_resuming_with_another_optimizer_is_refused(changes, difference, text, tmp_path, monkeypatch):
    config = config_of("GrassWalk", text)
    interrupted(tmp_path / "run", config, 1, monkeypatch)
    before = content(tmp_path / "run")
    with pytest.raises(RunError, match=rf"began with other settings \({difference}") as caught:
        train(tmp_path / "run", TrainConfig(**{**vars(config), **changes}), resume=True)
    assert "\n" not in str(caught.value)
    assert content(tmp_path / "run") == before
    with pytest.raises(ValueError, match="no optimizer is called 'graswalk'; nearest: GrassWalk"):
        train(tmp_path / "run", TrainConfig(**{**vars(config), "optimizer": "graswalk"}), resume=True)


@pytest.mark.parametrize(
    ("preset", "name", "expected"),
    [
        ("llama-1b", "GrassJump", {"rank": 512, "update_interval": 200, "scale": 1.0, "betas": (0.9, 0.999)}),
        ("llama-7b", "galore", {"rank": 1024, "update_interval": 500, "scale": 0.25}),
        ("llama-7b", "ldadam", {"rank": 1024, "update_interval": 1, "betas": (0.908, 0.99)}),
        ("llama-7b", "badam", {"rank": None, "update_interval": 100, "scale": 1.0}),
        ("llama-7b", "adamw", {"rank": None, "update_interval": None, "scale": None, "optimizer_options": {}}),
        ("llama-2m", "golore", {"rank": 32, "update_interval": 200, "optimizer_options": {"random_after": 160}}),
    ],
    ids=str,
)
def test_what_is_left_open_is_settled(preset, name, expected):
    settled = settle_optimizer(TrainConfig(preset=preset, optimizer=name).resolved())
    assert {field: getattr(settled, field) for field in expected} == expected
    assert settle_optimizer(settled) == settled


def test_which_parameters_are_in_the_subspace():
    config = settle_optimizer(TrainConfig(preset="tiny", optimizer="GrassWalk", rank=5).resolved())
    model = build_model(config)
    groups = build_optimizer(model, config).param_groups
    low, full = ({*group["param_names"]} for group in groups)
    assert [group["rank"] for group in groups] == [5, None]
    assert low | full == {name for name, _ in model.named_parameters()}
    assert low == {name for name in low | full if re.search(r"\.(self_attn|mlp)\..*_proj\.weight$", name)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "graswalk"}, "no optimizer is called 'graswalk'; nearest: GrassWalk"),
        ({"rank": 8}, "rank=8 has no effect on AdamW; leave it out"),
        ({"optimizer": "badam", "rank": 8}, "rank=8 has no effect on BAdam; leave it out"),
        ({"scale": 2.0}, "scale=2.0 has no effect on AdamW"),
        ({"optimizer": "galore", "rank": 0}, "rank must be a whole number of at least 1, got 0"),
        ({"optimizer": "galore", "update_interval": 0}, "update_interval must be a whole number of at least 1, got 0"),
        ({"optimizer": "galore", "scale": 0}, "scale must be a positive number, got 0"),
        ({"optimizer": "galore", "preset": None, "model": "hf:a/b"}, "GaLore on a pretrained model needs a rank; a qu"),
        ({"optimizer": "grasswalk", "optimizer_options": {"walkstep": 1}}, "GrassWalk has no option 'walkstep'; neare"),
        (
            {"optimizer": "grasswalk", "optimizer_options": {"walk_step": -1}},
            "walk_step must be a finite number of at ",
        ),
        ({"optimizer": "galore", "optimizer_options": {"rank": 3}}, "rank is a setting of its own; give --rank"),
        ({"optimizer": "galore", "optimizer_options": {"on_nonfinite": "skip"}}, "on_nonfinite has no use here, a tra"),
        ({"optimizer": "badam", "optimizer_options": {"freeze_inactive": True}}, "freeze_inactive has no use here, a "),
        ({"optimizer_options": {"walk_step": 0.1}}, "AdamW has no option 'walk_step'; it has eps"),
        ({"optimizer_options": {"eps": -1}}, "eps must be a finite number of at least 0, got -1"),
        ({"optimizer_options": {"eps": [1]}}, r"optimizer_options: eps must be a number, a text, .*got \[1\]"),
        ({"optimizer_options": "eps"}, "optimizer_options must be names and values, got 'eps'"),
    ],
    ids=str,
)
def test_impossible_settings_are_one_line_and_nothing_is_begun(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        train(tmp_path / "run", TrainConfig(**{"preset": "tiny", "data": "none", **settings}))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_no_recovery_is_a_word_and_no_value(text):
    config = tiny_config(text, optimizer="subspaceadam", optimizer_options={"recovery": None, "rule": "svd"}, rank=3)
    assert settle_optimizer(config.resolved()).optimizer_options == {"recovery": "none", "rule": "svd"}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rule": "wallk"}, "rule must be one of 'coordinates', 'dct', .* got 'wallk'"),
        ({"rule": "svd", "walk_step": 0.1}, "SubspaceAdam has no option 'walk_step'"),
        ({"recovery": "none", "zeta": None}, "SubspaceAdam has no option 'zeta'"),
        ({"moments": "kept"}, "moments must be one of"),
    ],
    ids=str,
)
def test_parts_without_sense_are_refused_before_any_work(options, match, text):
    config = tiny_config(text, optimizer="subspace-adam", optimizer_options=options)
    with pytest.raises(ValueError, match=match):
        settle_optimizer(config.resolved())


def test_beta2_leaves_beta1_to_the_optimizer(text, tmp_path):
    for optimizer, beta1 in (("adamw", 0.9), ("LDAdam", 0.908)):
        plain = settle_optimizer(tiny_config(text, optimizer=optimizer).resolved())
        assert plain.betas[0] == beta1
        after_colons = tiny_config(text, optimizer=f"{optimizer}:beta2=0.95")
        as_option = tiny_config(text, optimizer=optimizer, optimizer_options={"beta2": 0.95})
        settled = [settle_optimizer(config.resolved()) for config in (after_colons, as_option)]
        assert settled[0] == settled[1]
        assert settled[0].betas == (beta1, 0.95)
        assert settled[0].optimizer_options == plain.optimizer_options
    with pytest.raises(ValueError, match="betas must be two numbers"):
        settle_optimizer(tiny_config(text, optimizer="adamw:beta2=1.5").resolved())


def test_settings_may_follow_the_name_of_the_optimizer(text, tmp_path):
    config = tiny_config(text, optimizer="Grass-Walk:rank=4:walk-step=0.05:zeta=none:update_interval=3", steps=2)
    run = Run.open(train(tmp_path / "run", config))
    stored = run.manifest["config"]
    assert [stored[name] for name in ("optimizer", "rank", "update_interval")] == ["grasswalk", 4, 3]
    assert stored["optimizer_options"] == {"walk_step": 0.05, "zeta": None}
    for more in ({"rank": 8}, {"optimizer_options": {"walk_step": 0.1}}):
        with pytest.raises(ValueError, match="which is given beside it; leave one out"):
            tiny_config(text, optimizer="grasswalk:rank=4:walk_step=0.05", **more)
    for wrong, match in (("grasswalk:rank", "is not a setting"), ("grasswalk:rank=4:rank=5", "says rank twice"),
                         ("adamw:walk_step=1", "walk_step")):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            settle_optimizer(tiny_config(text, optimizer=wrong).resolved())


def test_a_run_with_beta2_is_resumed_by_the_same_words(text, tmp_path, monkeypatch):
    config = tiny_config(text, optimizer="adamw:beta2=0.95")
    interrupted(tmp_path / "run", config, 5, monkeypatch)
    assert stored_config(train(tmp_path / "run", config, resume=True)).betas == (0.9, 0.95)
