"""Trainings in shards: equal to that of one process, resumed bit for bit, and ended in a line when a process is lost.

What the processes do is in `sharded_runs`, all of it in one launch.
"""

import numpy as np
import pytest
import torch
from torch import distributed, nn

from subspace_lab.runs import Run
from subspace_lab.training import checkpoint, train
from subspace_lab.training.sharding import SHARDING, blocks_of, mesh_shape, settle_sharding, sharding_of, spread
from subspace_lab.training.workers import Workers
from tests.launch import launch_all
from tests.training.sharded_runs import STEPS, largest_difference
from tests.training.tiny import tiny_config, write_text

RUNS = [("ddp", 2), ("fsdp", 2), ("fsdp", 4), ("hsdp", 4)]


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """Where the processes wrote, and status and text of the calls."""
    root = tmp_path_factory.mktemp("sharded")
    write_text(root / "words.txt", num_words=30_000)
    module, cache = "tests.training.sharded_runs", {"XDG_CACHE_HOME": str(root / "cache")}
    calls = {
        "one": ("one", 1, ()),
        "of 2": ("sharded", 2, ("ddp", "fsdp")),
        "of 4": ("sharded", 4, ("fsdp", "hsdp")),
        "from 4 to 2": ("resumed", 2, ("fsdp_4_copy",)),
        "from 2 to 1": ("resumed", 1, ("fsdp_2_copy",)),
        "measured": ("measured", 1, ("fsdp_2_whole",)),
        "killed": ("lost", 2, ("killed",)),
        "fails": ("lost", 2, ("fails",)),
        "hangs": ("lost", 2, ("hangs",)),
    }
    nodes = {"of 4": {"LOCAL_WORLD_SIZE": "2"}}
    results = launch_all([
        (f"{module}:{function}", size, (root, *arguments), {**cache, **nodes.get(name, {})})
        for name, (function, size, arguments) in calls.items()
    ])
    found = dict(zip(calls, results, strict=True))
    for name, (statuses, text) in found.items():
        if name not in {"killed", "fails", "hangs"}:
            assert not any(statuses), (name, text[-5000:])
    return root, found


@pytest.mark.slow
@pytest.mark.parametrize(("sharding", "size"), RUNS)
def test_a_sharded_training_is_that_of_one_process(launched, sharding, size):
    root, _ = launched
    run, one = Run.open(root / f"{sharding}_{size}_whole"), Run.open(root / "one")
    assert run.verify() == one.verify() == STEPS // 2
    assert run.manifest["config"]["sharding"] == sharding
    assert "sharding" not in one.manifest["config"]
    assert run.manifest["environment"]["processes"] == size
    for column in ("loss", "grad_norm", "eval_loss", "lr", "tokens"):
        np.testing.assert_allclose(run.metrics[column], one.metrics[column], rtol=1e-4)
    for step in one.steps:
        for layer in one.layers["name"]:
            torch.testing.assert_close(run.gradient(step, layer), one.gradient(step, layer), rtol=1e-3, atol=1e-5)
    expected, found = (checkpoint.model_tensors(each.path, STEPS) for each in (one, run))
    assert largest_difference(expected, found) < 1e-3
    assert checkpoint.optimizer_bytes(run.path, STEPS) == checkpoint.optimizer_bytes(one.path, STEPS)


@pytest.mark.slow
@pytest.mark.parametrize(("sharding", "size"), RUNS)
def test_a_sharded_training_is_resumed_bit_for_bit(launched, sharding, size):
    root, found = launched
    whole, cut = (root / f"{sharding}_{size}_{name}" for name in ("whole", "cut"))
    assert found[f"of {size}"][1].count("resuming at step 4/8") == 2  # once for each sharding
    for path in [*whole.glob("snapshots/*"), checkpoint.checkpoint_path(whole, STEPS)]:
        assert (cut / path.relative_to(whole)).read_bytes() == path.read_bytes(), path
    assert Run.open(cut).metrics["loss"].tolist() == Run.open(whole).metrics["loss"].tolist()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "call"), [("fsdp_4_copy", "from 4 to 2"), ("fsdp_2_copy", "from 2 to 1")])
def test_another_number_of_processes_resumes_to_rounding_and_says_so(launched, name, call):
    root, found = launched
    before, now = ("4 processes (fsdp)", "2 processes (fsdp)"), ("2 processes (fsdp)", "one process")
    before, now = before if call == "from 4 to 2" else now
    assert found[call][1].count(f"{name} was begun by {before}, now it is resumed by {now}: sums in another order") == 1
    run, one = Run.open(root / name), Run.open(root / "one")
    assert run.manifest["finished"]
    assert run.verify() == STEPS // 2
    tensors = [checkpoint.model_tensors(each.path, STEPS) for each in (one, run)]
    assert largest_difference(*tensors) < 1e-3


@pytest.mark.slow
def test_checkpoints_of_shards_are_measured_as_any(launched):
    root, _ = launched
    run = Run.open(root / "fsdp_2_whole")
    assert run.table("hessian")["converged"].all()
    assert len(run.table("energy"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("killed", "error: process 1 of 2 is gone (killed, or its machine is)"),
        ("hangs", "error: process 1 of 2 is gone (killed, or its machine is), or has not answered for 5 s"),
        ("fails", "error: process 1 of 2 failed, and process 0 ends with it: planted"),
    ],
)
def test_who_is_left_names_the_process_that_is_lost(launched, how, line):
    root, found = launched
    statuses, text = found[how]
    assert statuses == {"killed": [2, -9], "hangs": [2, 0], "fails": [2, 2]}[how], text
    assert text.count(line) == 1, text
    assert "Traceback" not in text
    assert Run.open(root / f"lost_{how}").manifest["finished"] is False


def test_one_process_has_nothing_to_shard(tmp_path, text):
    for sharding in ("ddp", "fsdp"):
        with pytest.raises(ValueError, match=rf"^sharding='{sharding}' has no effect on one process; begin several"):
            train(tmp_path / "run", tiny_config(text, sharding=sharding))
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="sharding must be"):
        tiny_config(text, sharding="zero")


def test_the_processes_of_a_node_are_the_shards_of_hsdp(text, monkeypatch):
    team = Workers(0, 4, torch.device("cpu"))
    for each, advice in (("4", "fsdp"), ("1", "ddp"), ("3", "fsdp")):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", each)
        with pytest.raises(ValueError, match=rf"here are 4 processes, {each} on this node; use sharding='{advice}'$"):
            settle_sharding(tiny_config(text, sharding="hsdp"), team)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert settle_sharding(tiny_config(text, sharding="hsdp"), team).sharding == "hsdp"
    assert settle_sharding(tiny_config(text), team).sharding == "ddp"
    monkeypatch.setenv(SHARDING, "fsdp")  # as a study does
    assert settle_sharding(tiny_config(text), team).sharding == "fsdp"
    assert settle_sharding(tiny_config(text, sharding="ddp"), team).sharding == "ddp"
    assert sharding_of(tiny_config(text), Workers(0, 1, torch.device("cpu"))) is None
    monkeypatch.setenv(SHARDING, "zero")
    with pytest.raises(ValueError, match=r"^SUBSPACE_LAB_SHARDING must be"):
        settle_sharding(tiny_config(text), team)
    assert mesh_shape("hsdp", team) == (2, 2)
    assert mesh_shape("fsdp", team) == (4,)


@pytest.mark.parametrize(("local", "others"), [("1", 1.0), ("0", 1.0)])
def test_processes_that_are_dealt_out_in_turns_make_no_mesh_of_nodes(local, others, monkeypatch):
    """Of processes 0, 2 and 1, 3 on two nodes, two know that they are out of place, and all say so."""
    monkeypatch.setattr(distributed, "all_reduce", lambda tensor: tensor.add_(others))
    for name, value in {"LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": local}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        ValueError, match=rf"in a row .* the LOCAL_RANK of {others + int(local):.0f} of 4 says otherwise"
    ):
        spread(nn.Linear(2, 2), "hsdp", Workers(2, 4, torch.device("cpu")))


def test_blocks_are_what_is_in_the_outermost_lists():
    experts = nn.ModuleList([nn.Linear(2, 2)])
    blocks = nn.ModuleList([nn.ModuleDict({"experts": experts}), nn.Identity(), nn.Linear(3, 3)])
    model = nn.ModuleDict({"embed": nn.Embedding(2, 2), "inner": nn.ModuleDict({"blocks": blocks})})
    assert list(blocks_of(model)) == [blocks[0], blocks[2]]


def test_every_process_evaluates_as_often_as_the_others():
    for count, size in ((5, 2), (1, 4), (8, 4), (3, 1)):
        lists = [list(Workers(rank, size, torch.device("cpu")).shares(count, 4)) for rank in range(size)]
        assert len({len(of_process) for of_process in lists}) == 1
        assert sorted(row for of_process in lists for part in of_process for row in part) == list(range(count))
        assert all(len(part) <= 4 // size for of_process in lists for part in of_process)
