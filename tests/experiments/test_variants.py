"""The grid, what is refused, and that the methods differ in nothing but the optimizer."""

import math

import pytest
import torch

from subspace_lab.experiments.grid import Grid
from subspace_lab.experiments.variants import (
    Trainings,
    check_shared,
    check_used,
    common_config,
    describe,
    left_open,
    parse_methods,
    rates,
)
from subspace_lab.optim import METHODS, memory_report
from subspace_lab.training import TrainConfig, parameter_shapes, preset
from subspace_lab.training.sequences import Sequences
from subspace_lab.training.tasks.language import LanguageTask
from subspace_lab.training.tokens import load_tokens
from subspace_lab.training.trainer import Trainer
from subspace_lab.training.workers import Workers

BASE = common_config(TrainConfig(preset="llama-2m"))


def trials_of(methods, lrs, seeds, base):
    return Grid([*methods], rates(lrs), range(seeds), Trainings(base, methods, "data")).trials()


def configs(trials):
    return [TrainConfig.from_dict(trial.config) for trial in trials]


def test_a_grid_has_every_method_at_every_rate_with_every_seed():
    trials = trials_of(parse_methods(["GrassWalk", "adam-w"]), [1e-3, 3e-3], 2, BASE)
    expected = {(m, lr, s) for m in ("grasswalk", "adamw") for lr in (1e-3, 3e-3) for s in (0, 1)}
    assert {(t.factors["method"], t.factors["lr"], t.factors["seed"]) for t in trials} == expected
    assert len(trials) == len({trial.hash for trial in trials}) == 8
    for trial, config in zip(trials, configs(trials), strict=True):
        factors = {name: trial.factors[name] for name in ("method", "lr", "seed", "steps", "warmup", "preset")}
        assert factors == {
            "method": config.optimizer, "lr": config.lr, "seed": config.seed, "steps": config.steps,
            "warmup": config.warmup, "preset": "llama-2m",
        }  # fmt: skip
        assert (trial.factors["lr_rest"], trial.factors["beta2"]) == (config.lr, config.betas[1])
        assert (config.every, config.threads, config) == (None, 1, config.resolved())
    assert trials[0].label == "grasswalk_lr0.001_seed0"
    assert trials[0].name == f"grasswalk_lr0.001_seed0-{trials[0].hash[:12]}"
    assert {trial.factors["seed"] for trial in trials[:4]} == {0}  # what can be said after a seed is said early


def test_settings_go_to_the_methods_that_have_them():
    base = common_config(TrainConfig(preset="llama-2m", rank=8, update_interval=7))
    methods = parse_methods(["adamw", "grasswalk:rank=16:zeta=none", "badam"])
    assert list(methods) == ["adamw", "grasswalk:rank=16:zeta=none", "badam"]
    adamw, walk, badam = configs(trials_of(methods, [1e-3], 1, base))
    assert (adamw.rank, adamw.update_interval) == (None, None)
    assert (walk.rank, walk.update_interval, walk.optimizer_options) == (16, 7, {"zeta": None})
    assert (badam.rank, badam.update_interval) == (None, 7)


def test_methods_of_ones_own_names():
    methods = parse_methods({"a walk": {"optimizer": "GrassWalk", "rank": 4, "weight_decay": 0.1}})
    (trial,) = trials_of(methods, [2e-3], 1, BASE)
    (config,) = configs([trial])
    assert trial.label == "a-walk_lr0.002_seed0"
    assert (config.optimizer, config.rank, config.weight_decay) == ("grasswalk", 4, 0.1)


def test_rates_that_read_alike_have_directories_of_their_own():
    one, two = trials_of(parse_methods(["adamw"]), [1e-3, 1.0000001e-3], 1, BASE)
    assert one.label == two.label
    assert one.name != two.name


def test_the_content_is_what_decides_the_outcome():
    """Threads, shards, checkpoints and what a method is called do not; the data, every option and the rate do."""
    (one,) = trials_of(parse_methods(["grasswalk"]), [1e-3], 1, BASE)
    same = {"a walk": {"optimizer": "GrassWalk", "walk_step": 0.1}}
    for base, methods in (
        (
            common_config(TrainConfig(preset="llama-2m", threads=2, sharding="fsdp", checkpoint_every=7)),
            parse_methods(["grasswalk"]),
        ),
        (BASE, parse_methods(same)),
    ):
        assert trials_of(methods, [1e-3], 1, base)[0].hash == one.hash
    others = [
        Trainings(BASE, parse_methods(["grasswalk"]), "other data")("grasswalk", {"lr": 1e-3}, 0, "tune"),
        *trials_of(parse_methods(["grasswalk:walk_step=0.2"]), [1e-3], 1, BASE),
        *trials_of(parse_methods(["grasswalk"]), [2e-3], 1, BASE),
        *trials_of(parse_methods(["grasswalk"]), [1e-3], 2, BASE)[1:],
    ]
    assert len({trial.hash for trial in [one, *others]}) == 5


def test_how_a_run_was_trained_is_left_open():
    config = TrainConfig(preset="llama-2m", lr=1e-3, threads=2, sharding="fsdp", seed=3, batch_size=4)
    assert left_open(config) == TrainConfig(preset="llama-2m", batch_size=4, every=None)


def test_the_phase_is_no_content_and_no_configuration():
    make = Trainings(BASE, parse_methods(["adamw"]), "data", factors={"setting": "free"}, prefix="free ")
    tuned, evaluated = (make("adamw", {"lr": 1e-3}, 0, phase) for phase in ("tune", "evaluate"))
    assert (tuned.factors["phase"], evaluated.factors["phase"]) == ("tune", "evaluate")
    assert (tuned.hash, tuned.label, tuned.config) == (evaluated.hash, evaluated.label, evaluated.config)
    assert (tuned.factors["setting"], tuned.label) == ("free", "free-adamw_lr0.001_seed0")


def test_bytes_by_formula_are_those_of_the_memory_report():
    walk, adamw = trials_of(parse_methods(["grasswalk:rank=4", "adamw"]), [1e-3], 1, BASE)
    shapes = parameter_shapes(preset("llama-2m"))
    assert describe(walk) == {"state_bytes_formula": memory_report(shapes, METHODS["grasswalk"], rank=4).optimizer}
    bytes_of_adamw = sum(8 * math.prod(shape) + 4 for shape in shapes.values())  # two moments and a step count
    assert describe(adamw) == {"state_bytes_formula": bytes_of_adamw}


@pytest.mark.parametrize(
    ("methods", "lrs", "message"),
    [
        ([], [1e-3], "methods is empty"),
        ("grasswalk", [1e-3], "methods must be a list of names"),
        (["graswalk"], [1e-3], "no optimizer is called 'graswalk'; nearest: GrassWalk"),
        (["adamw", "AdamW"], [1e-3], "methods has adamw twice"),
        (["galore:side=left:side=right"], [1e-3], "says side twice; leave one out"),
        (["grasswalk:rank"], [1e-3], "'rank' is not a setting; write name=value"),
        (["grasswalk:rnk=3"], [1e-3], "rnk"),
        (["adamw:rank=3"], [1e-3], "rank=3 has no effect on AdamW"),
        (["adamw:lr=3"], [1e-3], "lr is chosen by the grid"),
        ({"a": "adamw"}, [1e-3], "settings must be a mapping"),
        ({"": {"optimizer": "adamw"}}, [1e-3], "the name of a method must be a text"),
        ({"_a": {"optimizer": "adamw"}}, [1e-3], "does not begin with an underscore"),
        ({1: {"optimizer": "adamw"}}, [1e-3], "the name of a method must be a text"),
        (["adamw"], 1e-3, "lrs must be a list of numbers, got 0.001"),
        (["adamw"], "1e-3", "lrs must be a list of numbers"),
        (["adamw"], [], "lrs is empty"),
        (["adamw"], [1e-3, 0], "lrs must be positive numbers, got 0"),
        (["adamw"], [float("nan")], "lrs must be positive numbers, got nan"),
        (["adamw"], [1e-3, 0.001], "lrs has 0.001 twice"),
    ],
)
def test_a_wrong_grid_is_one_line(methods, lrs, message):
    with pytest.raises(ValueError, match=message) as caught:
        trials_of(parse_methods(methods), lrs, 1, BASE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("methods", [["adamw:steps=3"], ["badam", "grasswalk:batch-size=3"], {"a": {"data": "x"}}])
def test_what_all_methods_share_is_no_setting_of_one(methods):
    parsed = {"a": {"optimizer": "adamw", **methods["a"]}} if isinstance(methods, dict) else parse_methods(methods)
    with pytest.raises(ValueError, match=r"(steps|batch_size|data) must be the same for all methods"):
        check_shared(parsed)
    check_shared(parse_methods(["grasswalk:rank=3:clip=none:walk-step=0.2"]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "galore"}, "optimizer='galore' has no use in a comparison: the methods set it"),
        ({"lr": 1e-3}, "lr=0.001 has no use in a comparison: the grid sets it"),
        ({"seed": 3}, "seed=3 has no use"),
        ({"every": 5}, "every=5 has no use"),
        ({"eval_every": None}, "needs the held-out loss"),
    ],
)
def test_what_the_cells_settle_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        common_config(TrainConfig(**changes))


def test_a_setting_that_no_method_has_is_refused():
    with pytest.raises(ValueError, match="rank=8 has no effect on any of the methods"):
        check_used(common_config(TrainConfig(rank=8)), parse_methods(["adamw"]).values())


def test_all_methods_see_the_same_weights_batches_and_evaluation(settings):
    trials = trials_of(parse_methods([*METHODS]), [1e-3], 2, common_config(settings()))
    sequences = Sequences(load_tokens(configs(trials[:1])[0]).tokens, 16, hold_out=True)
    seen, alone = {}, Workers(0, 1, torch.device("cpu"))
    for config in configs(trials):
        trainer = Trainer(config, LanguageTask(config, sequences, alone), alone)
        weights = [parameter.detach().clone() for parameter in trainer.model.parameters()]
        batches = [trainer._micro_batch(step, 0)["input_ids"] for step in range(12)]
        losses = torch.tensor([trainer.evaluate()["eval_loss"], trainer.backward(0)], dtype=torch.float64)
        now = [*weights, *batches, losses]
        before = seen.setdefault(config.seed, now)
        assert all(map(torch.equal, before, now)), config.optimizer
    assert not any(map(torch.equal, seen[0][:1], seen[1][:1]))  # another seed is another beginning
    assert not torch.equal(seen[0][-2], seen[1][-2])


def test_a_method_may_have_a_rate_of_its_own_for_what_has_no_rank(settings):
    methods = parse_methods(["adamw:lr-rest=0.02", "grasswalk"])
    trials = trials_of(methods, [1e-3], 1, common_config(settings(lr_rest=5e-3)))
    wanted = {"adamw:lr_rest=0.02": (1e-3, 0.02), "grasswalk": (1e-3, 5e-3)}
    assert {t.factors["method"]: (t.factors["lr"], t.factors["lr_rest"]) for t in trials} == wanted
    assert [(config.lr, config.lr_rest) for config in configs(trials)] == [*wanted.values()]
