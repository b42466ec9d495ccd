"""Low-rank methods, clipping, accumulation, autocast and adapters in shards: as in one process, resumed exactly.

What the processes do is in `sharded_methods`, all of it in one launch.
"""

import numpy as np
import pytest
import torch

from subspace_lab.runs import Run
from subspace_lab.training import checkpoint
from tests.launch import launch_all
from tests.training.sharded_methods import CASES, SOME, STEPS
from tests.training.sharded_runs import largest_difference
from tests.training.tiny import write_text

RUNS = [
    *((name, "fsdp", 2) for name in CASES), *((name, "ddp", 2) for name in SOME), *((name, "hsdp", 4) for name in SOME),
]  # fmt: skip
PARTS = ("gram_left", "gram_right", "singular_values")  # of a snapshot; columns of a basis have any sign
CLOSE = {"bfloat16": 2e-3}  # there sums of another order are rounded to 8 bits


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Where the processes wrote."""
    root = tmp_path_factory.mktemp("methods")
    write_text(root / "words.txt", num_words=30_000)
    module, cache = "tests.training.sharded_methods", {"XDG_CACHE_HOME": str(root / "cache")}
    calls = [
        ("one", 1, (), {}),
        ("sharded", 2, ("fsdp", *CASES), {}),
        ("sharded", 2, ("ddp", *SOME), {}),
        ("sharded", 4, ("hsdp", *SOME), {"LOCAL_WORLD_SIZE": "2"}),
        ("resumed", 1, ("", *(f"{name}_fsdp_copy" for name in CASES)), {}),
        ("resumed", 2, ("fsdp", *(f"{name}_hsdp_copy" for name in SOME)), {}),  # a group after the other
    ]
    found = launch_all([
        (f"{module}:{function}", size, (root, *arguments), {**cache, **variables})
        for function, size, arguments, variables in calls
    ])
    for statuses, text in found:
        assert not any(statuses), text[-5000:]
    line = "was begun by 4 processes (hsdp), now it is resumed by 2 processes (fsdp): sums in another order agree"
    assert found[-1][1].count(line) == len(SOME)
    return root


def same_as_one(run, one, name):
    for column in ("grad_norm", "lr", "tokens"):
        np.testing.assert_allclose(run.metrics[column], one.metrics[column], rtol=CLOSE.get(name, 1e-10))
    for column in ("loss", "eval_loss"):  # of transformers, in float32
        np.testing.assert_allclose(run.metrics[column], one.metrics[column], rtol=CLOSE.get(name, 1e-6))
    if name != "bfloat16":  # where an entry whose gradient is near Adam's epsilon may have the other sign
        tensors = [checkpoint.model_tensors(each.path, STEPS) for each in (one, run)]
        assert largest_difference(*tensors) < 1e-10
    assert checkpoint.optimizer_bytes(run.path, STEPS) == checkpoint.optimizer_bytes(one.path, STEPS)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sharding", "size"), RUNS)
def test_it_is_the_training_of_one_process(root, name, sharding, size):
    run, one = Run.open(root / f"{name}_{sharding}_whole"), Run.open(root / f"{name}_one")
    assert run.manifest["config"]["sharding"] == sharding
    assert run.manifest["environment"]["processes"] == size
    same_as_one(run, one, name)
    assert run.steps == one.steps == [0, 2, 4]
    assert run.verify() == 3
    for step in run.steps if name != "bfloat16" else ():
        with run.snapshot(step) as found, one.snapshot(step) as expected:
            for layer in one.layers["name"]:
                pairs = [(found.get(part, layer), expected.get(part, layer)) for part in PARTS]
                kept = [pair for pair in pairs if pair[1] is not None]
                assert kept, (step, layer)
                for pair in kept:
                    torch.testing.assert_close(*pair, rtol=1e-5, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sharding", "size"), RUNS)
def test_it_is_resumed_bit_for_bit(root, name, sharding, size):
    whole, cut = (root / f"{name}_{sharding}_{part}" for part in ("whole", "cut"))
    for path in [*whole.glob("snapshots/*"), checkpoint.checkpoint_path(whole, STEPS)]:
        assert (cut / path.relative_to(whole)).read_bytes() == path.read_bytes(), path
    assert Run.open(cut).metrics["loss"].tolist() == Run.open(whole).metrics["loss"].tolist()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sharding"), [(name, "fsdp") for name in CASES] + [(name, "hsdp") for name in SOME])
def test_another_number_of_processes_or_sharding_goes_on_to_rounding(root, name, sharding):
    same_as_one(Run.open(root / f"{name}_{sharding}_copy"), Run.open(root / f"{name}_one"), name)


@pytest.mark.slow
def test_what_is_tested_acts(root):
    """Clipping clips, the methods do not train alike, and adapters are all that is kept."""
    clipped, last = Run.open(root / "clipped_fsdp_whole").metrics, {}
    assert (clipped["grad_norm"] > CASES["clipped"]["clip"]).all()
    assert (clipped["accumulation"] == 2).all()
    for name in CASES:
        last[name] = Run.open(root / f"{name}_fsdp_whole").metrics["loss"].iloc[-1]
    assert len({round(loss, 4) for loss in last.values()}) == len(last), last
    assert all("lora_" in name for name in checkpoint.model_tensors(root / "adapter_fsdp_whole", STEPS))
