"""The configuration: JSON round trip, what is filled in, and one line for each mistake."""

import json

import pytest
from hypothesis import given, strategies as st

from subspace_lab.training import TrainConfig

positive = st.integers(1, 10_000)


SETTINGS = {
    "steps": positive,
    "lr": st.floats(1e-8, 1),
    "clip": st.none() | st.floats(0.1, 10),
    "betas": st.tuples(st.floats(0, 0.99), st.floats(0, 0.999)),
    "eval_every": st.none() | positive,
    "layers": st.none() | st.tuples(st.text(), st.text()),
    "data": st.text(),
    "seed": st.integers(0, 2**40),
    "precision": st.sampled_from(["auto", "float32", "bfloat16"]),
}


@given(st.fixed_dictionaries({}, optional=SETTINGS))
def test_json_round_trip(values):
    config = TrainConfig(**values)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("llama-60m", {"lr": 1e-3, "batch_size": 128, "accumulation": 2, "sequence_length": 256, "steps": 10_000}),
        ("llama-350m", {"lr": 1e-3, "batch_size": 64, "accumulation": 2, "warmup": 1000, "vocab_size": 32_000}),
        ("llama-7b", {"lr": 1e-4, "batch_size": 4, "accumulation": 4}),
        (None, {"preset": "llama-7m", "vocab_size": 4096}),
    ],
)
def test_open_fields_follow_from_the_preset(preset, expected):
    resolved = TrainConfig(preset=preset).resolved().to_dict()
    assert {name: resolved[name] for name in expected} == expected


def test_what_is_given_stays():
    config = TrainConfig(preset="llama-60m", lr=0.5, steps=30, warmup=0, vocab_size=99).resolved()
    assert (config.lr, config.steps, config.warmup, config.vocab_size) == (0.5, 30, 0, 99)
    assert config.resolved() == config


def test_a_pretrained_model_keeps_its_vocabulary():
    resolved = TrainConfig(model="hf:somebody/model").resolved()
    assert (resolved.preset, resolved.vocab_size, resolved.lr) == (None, None, 2e-5)


def test_open_fields_match_what_a_run_began_with():
    before = TrainConfig(preset="llama-2m", steps=7, precision="float32", threads=2, clip=None).resolved()
    assert TrainConfig(clip=None).matched(before) == before
    with pytest.raises(ValueError, match=r"^steps 7 -> 8; clip None -> 1.0$"):
        TrainConfig(steps=8).matched(before)
    with pytest.raises(ValueError, match=r"^every 10 -> None$"):
        TrainConfig(every=None, clip=None).matched(before)
    with pytest.raises(ValueError, match="preset 'llama-2m' -> None; model None -> 'hf:x/y'"):
        TrainConfig(model="hf:x/y", clip=None).matched(before)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"batch_size": 2.0}, "batch_size must be a whole number of at least 1, got 2.0"),
        ({"every": -1}, "every must be"),
        ({"sequence_length": 1}, "sequence_length must be a whole number of at least 2"),
        ({"seed": -1}, "seed must be"),
        ({"warmup": True}, "warmup must be"),
        ({"lr": 0.0}, "lr must be a positive number"),
        ({"lr": "1e-3"}, "lr must be a positive number, got '1e-3'"),
        ({"clip": float("nan")}, "clip must be a positive number, or None"),
        ({"min_lr_ratio": 2}, r"min_lr_ratio must be a number in \[0, 1\]"),
        ({"weight_decay": -0.1}, "weight_decay must be"),
        ({"betas": (0.9, 1.0)}, r"betas must be two numbers in \[0, 1\)"),
        ({"betas": (0.9,)}, "betas must be two numbers"),
        ({"preset": "llama-2m", "model": "hf:a/b"}, "not both"),
        ({"model": "hf:a/b", "vocab_size": 10}, "vocab_size=10 has no effect"),
        ({"precision": "float16"}, "precision must be one of 'auto', 'float32', 'bfloat16', got 'float16'"),
        ({"optimizer": "adamw:lr=0.1", "lr": 0.2}, "says lr, which is given beside it"),
        ({"layers": "*.mlp.*"}, r"write \('\*.mlp.\*',\)"),
    ],
)
def test_impossible_values_are_one_line(values, message):
    with pytest.raises(ValueError, match=message) as caught:
        TrainConfig(**values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tokens", "resolved", "to_dict"])
def test_what_is_no_setting_is_an_option_of_the_optimizer(name):
    """Whether there is one is for the optimizer to say; it is not read as a property of the configuration."""
    assert TrainConfig(optimizer=f"adamw:{name}=5").optimizer_options == {name: 5}


def test_a_warm_up_longer_than_the_training_is_refused():
    with pytest.raises(ValueError, match="warmup=5 is longer than steps=4"):
        TrainConfig(steps=4, warmup=5).resolved()


def test_unknown_settings_name_the_nearest():
    with pytest.raises(ValueError, match="no setting 'learning_rat'"):
        TrainConfig.from_dict({"learning_rat": 1})
