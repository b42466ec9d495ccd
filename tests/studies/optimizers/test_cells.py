"""The grid, what is refused, and that the methods differ in nothing but the optimizer."""

import pytest
import torch

from subspace_lab.optim import METHODS
from subspace_lab.studies.optimizers.cells import cells_of, check_shared, check_used, common_config, parse_methods
from subspace_lab.training import TrainConfig
from subspace_lab.training.sequences import Sequences
from subspace_lab.training.tasks.language import LanguageTask
from subspace_lab.training.tokens import load_tokens
from subspace_lab.training.trainer import Trainer
from subspace_lab.training.workers import Workers

BASE = common_config(TrainConfig(preset="llama-2m"))


def test_a_grid_has_every_method_at_every_rate_with_every_seed():
    cells = cells_of(parse_methods(["GrassWalk", "adam-w"]), [1e-3, 3e-3], 2, BASE)
    expected = {(m, lr, s) for m in ("grasswalk", "adamw") for lr in (1e-3, 3e-3) for s in (0, 1)}
    assert {(cell.method, cell.lr, cell.seed) for cell in cells} == expected
    assert len(cells) == 8
    for cell in cells:
        config = cell.config
        assert (config.optimizer, config.lr, config.seed) == (cell.method, cell.lr, cell.seed)
        assert (config.every, config.threads, config) == (None, 1, config.resolved())
    assert cells[0].name == "grasswalk_lr0.001_seed0"
    assert {cell.seed for cell in cells[:4]} == {0}  # what can be said after a seed is said early


def test_settings_go_to_the_methods_that_have_them():
    base = common_config(TrainConfig(preset="llama-2m", rank=8, update_interval=7))
    methods = parse_methods(["adamw", "grasswalk:rank=16:zeta=none", "badam"])
    assert list(methods) == ["adamw", "grasswalk:rank=16:zeta=none", "badam"]
    adamw, walk, badam = (cell.config for cell in cells_of(methods, [1e-3], 1, base))
    assert (adamw.rank, adamw.update_interval) == (None, None)
    assert (walk.rank, walk.update_interval, walk.optimizer_options) == (16, 7, {"zeta": None})
    assert (badam.rank, badam.update_interval) == (None, 7)


def test_methods_of_ones_own_names():
    methods = parse_methods({"a walk": {"optimizer": "GrassWalk", "rank": 4, "weight_decay": 0.1}})
    (cell,) = cells_of(methods, [2e-3], 1, BASE)
    assert cell.name == "a-walk_lr0.002_seed0"
    assert (cell.config.optimizer, cell.config.rank, cell.config.weight_decay) == ("grasswalk", 4, 0.1)


@pytest.mark.parametrize(
    ("methods", "lrs", "seeds", "message"),
    [
        ([], [1e-3], 1, "methods is empty"),
        ("grasswalk", [1e-3], 1, "methods must be a list of names"),
        (["graswalk"], [1e-3], 1, "no optimizer is called 'graswalk'; nearest: GrassWalk"),
        (["adamw", "AdamW"], [1e-3], 1, "methods has adamw twice"),
        (["galore:side=left:side=right"], [1e-3], 1, "says side twice; leave one out"),
        (["grasswalk:rank"], [1e-3], 1, "'rank' is no setting; write name=value"),
        (["grasswalk:rnk=3"], [1e-3], 1, "rnk"),
        (["adamw:rank=3"], [1e-3], 1, "rank=3 has no effect on AdamW"),
        (["adamw:lr=3"], [1e-3], 1, "lr is chosen by the grid"),
        ({"a": "adamw"}, [1e-3], 1, "settings must be a mapping"),
        ({"": {"optimizer": "adamw"}}, [1e-3], 1, "the name of a method must be a text"),
        ({"_a": {"optimizer": "adamw"}}, [1e-3], 1, "does not begin with an underscore"),
        ({1: {"optimizer": "adamw"}}, [1e-3], 1, "the name of a method must be a text"),
        (["adamw"], 1e-3, 1, "lrs must be a list of numbers, got 0.001"),
        (["adamw"], "1e-3", 1, "lrs must be a list of numbers"),
        (["adamw"], [], 1, "lrs is empty"),
        (["adamw"], [1e-3, 0], 1, "lrs must be positive numbers, got 0"),
        (["adamw"], [float("nan")], 1, "lrs must be positive numbers, got nan"),
        (["adamw"], [1e-3, 0.001], 1, "lrs has 0.001 twice"),
        (["adamw"], [1e-3], 0, "seeds must be a whole number of at least 1, got 0"),
        (["adamw"], [1e-3], 1.5, "seeds must be a whole number of at least 1, got 1.5"),
        (["adamw"], [1e-3, 1.0000001e-3], 1, "would share the directory adamw_lr0.001_seed0"),
    ],
)
def test_a_wrong_grid_is_one_line(methods, lrs, seeds, message):
    with pytest.raises(ValueError, match=message) as caught:
        cells_of(parse_methods(methods), lrs, seeds, BASE)
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
        ({"optimizer": "galore"}, "optimizer='galore' has no use in a comparison: the methods say that"),
        ({"lr": 1e-3}, "lr=0.001 has no use in a comparison: the grid says that"),
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
    cells = cells_of(parse_methods([*METHODS]), [1e-3], 2, common_config(settings()))
    sequences = Sequences(load_tokens(cells[0].config).tokens, 16, hold_out=True)
    seen, alone = {}, Workers(0, 1, torch.device("cpu"))
    for cell in cells:
        trainer = Trainer(cell.config, LanguageTask(cell.config, sequences, alone), alone)
        weights = [parameter.detach().clone() for parameter in trainer.model.parameters()]
        batches = [trainer._micro_batch(step, 0)["input_ids"] for step in range(12)]
        losses = torch.tensor([trainer.evaluate()["eval_loss"], trainer.backward(0)], dtype=torch.float64)
        now = [*weights, *batches, losses]
        before = seen.setdefault(cell.seed, now)
        assert all(map(torch.equal, before, now)), cell.method
    assert not any(map(torch.equal, seen[0][:1], seen[1][:1]))  # another seed is another beginning
    assert not torch.equal(seen[0][-2], seen[1][-2])


def test_a_method_may_have_a_rate_of_its_own_for_what_has_no_rank(settings):
    methods = parse_methods(["adamw:lr-rest=0.02", "grasswalk"])
    cells = cells_of(methods, [1e-3], 1, common_config(settings(lr_rest=5e-3)))
    assert {cell.method: (cell.config.lr, cell.config.lr_rest) for cell in cells} == {
        "adamw:lr_rest=0.02": (1e-3, 0.02), "grasswalk": (1e-3, 5e-3),
    }  # fmt: skip
