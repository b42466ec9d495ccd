"""Every method under everything that torch distributes a model by: the trajectory of one process, to 1e-10."""

import pytest
import torch

from subspace_lab import optim
from tests.optim.members import every_member
from tests.optim.sharded.checkpoints import RESUMED
from tests.optim.sharded.launch import results
from tests.optim.sharded.worker import SHAPES, WRAPPERS, members_under

pytestmark = pytest.mark.slow

every_world = pytest.mark.parametrize("world", [1, 2, 4])
CASES = [(world, kind) for world, kinds in WRAPPERS.items() for kind in kinds]
every_wrapper = pytest.mark.parametrize(("world", "kind"), CASES)


def cell(folder, world, name):
    """What a cell gave, on every process."""
    found = [of_process[name] for of_process in results(folder, world)]
    for one in found:
        assert "error" not in one, one["error"]
    return found


def check(folder, world, name):
    for found in cell(folder, world, name):
        assert found["parameters"] < 1e-10
        assert found["states"] < 1e-8


@pytest.mark.parametrize(
    ("world", "kind", "member"), [(*case, member) for case in CASES for member in members_under(case[1])], ids=str
)
def test_many_processes_give_the_trajectory_of_one(member, kind, world, folder):
    """Over refreshes, weight decay, accumulation, clipping, a convolution, a stack, tied weights and empty shards."""
    check(folder, world, f"{member}/{kind}")


@every_wrapper
def test_groups_are_clipped_by_their_whole_norms(kind, world, folder):
    check(folder, world, f"clipper/{kind}")


@pytest.mark.parametrize("name", ["GrassWalk", "GaLore"])
@pytest.mark.parametrize("kind", ["fsdp", "tp"])
@every_world
def test_the_side_that_is_not_sharded_gives_the_trajectory_of_one_process_with_that_side(name, kind, world, folder):
    check(folder, world, f"{name}/side/{kind}")


@pytest.mark.parametrize("kind", ["fsdp", "fsdp-tp"])
@every_world
def test_a_rule_of_others_sees_whole_matrices(kind, world, folder):
    check(folder, world, f"rule/{kind}")


@pytest.mark.parametrize(("world", "kind"), [case for case in CASES if case[0] > 1 and case[1] != "ddp"])
def test_a_non_finite_part_of_a_gradient_is_one_decision(kind, world, folder):
    found = cell(folder, world, f"non-finite/{kind}")
    assert all(one == found[0] for one in found)
    assert found[0]["raise"].startswith("middle.weight: 1 of 144 gradient entries are NaN or Inf")
    assert found[0]["skip"] == "nothing"
    assert not found[0]["raise changes"]
    assert not found[0]["skip changes"]


@pytest.mark.parametrize("shape", [(12, 20), (6, 8)], ids=["decomposed for all", "whole on one"])
@pytest.mark.parametrize("world", [2, 4])
def test_a_rule_that_fails_on_one_process_stops_all(world, shape, folder):
    said = [found["said"] for found in cell(folder, world, f"failing-rule/{shape}")]
    assert said.count("this rule does not like the gradient") == 1
    other = "a basis could not be computed on another process; the message of that one says why"
    assert said.count(other) == world - 1


@pytest.mark.parametrize("world", [2, 4])
def test_settings_that_differ_between_processes_are_refused(world, folder):
    ends = (
        "in the groups of this process and not on all others: give all processes the same settings, the seed included"
    )
    for rank, found in enumerate(cell(folder, world, "other-seeds")):
        assert found["said"].startswith(f"seed is [{rank}, ")
        assert found["said"].endswith(ends)


@pytest.mark.parametrize("is_sum", [False, True])
@pytest.mark.parametrize("world", [2, 4])
def test_a_gradient_that_is_missing_on_one_process_is_refused_on_all(world, is_sum, folder):
    for found in cell(folder, world, f"gradient-on-one/{is_sum}"):
        assert found["said"].startswith("middle.weight: it has a gradient on some of its processes and none on others")


@pytest.mark.parametrize("world", [2, 4])
def test_gradients_that_are_parts_of_sums_are_summed(world, folder):
    check(folder, world, "sums")


@pytest.mark.parametrize("world", [2, 4])
def test_a_parameter_that_is_not_distributed_may_have_a_gradient_on_one_process(world, folder):
    check(folder, world, "local-on-one")


resumed = pytest.mark.parametrize(("member", "kind"), RESUMED, ids=str)


@resumed
@every_world
def test_a_distributed_checkpoint_resumes_bit_for_bit(member, kind, world, folder):
    """Saved while the processes could go on."""
    assert all(found["same"] for found in cell(folder, world, f"again/{member}/{kind}"))


@resumed
def test_four_processes_are_resumed_by_two_and_these_by_one(member, kind, folder):
    for world in (4, 2):
        cell(folder, world, f"passed-on/{member}/{kind}")
    assert cell(folder, 1, f"passed-on/{member}/{kind}")[0]["parameters"] < 1e-10


@every_member
@pytest.mark.parametrize("world", [2, 4])
def test_whole_states_go_from_many_processes_to_one_and_back(member, world, folder):
    for found in cell(folder, world, f"whole/{member}"):
        assert found["parameters"] < 1e-10


@every_member
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("world", [2, 4])
def test_a_step_moves_the_bytes_that_the_sharding_report_says(member, shape, world, folder):
    """Nothing of a tall matrix between refreshes; means over the processes, of which one decomposes."""
    found = [one[str(shape)] for one in cell(folder, world, f"received/{member}")]
    step, refresh = (sum(numbers) / world for numbers in zip(*found, strict=True))
    [report] = optim.sharding_report(
        {"up.weight": shape}, member.name, world=world, per_node=world, sharding="III", rank=3, dtype=torch.float64,
        update_interval=3, splits=SHAPES[shape], **member.options,
    )  # fmt: skip
    assert step == pytest.approx(report.exchanged.within, abs=1e-6)
    if member.options.get("rule") != "hybrid":  # whose refreshes are of two kinds
        assert refresh - step == pytest.approx(report.refresh.within, abs=1e-6)
