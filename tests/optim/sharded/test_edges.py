"""Few digits, gradients whose squares overflow, and stacks of experts on two processes; what two cannot share."""

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from subspace_lab import optim
from tests.launch import told_by
from tests.optim.members import every_member
from tests.optim.test_faults import message_of


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of two processes found."""
    return told_by("tests.optim.sharded.edges:work", 2, tmp_path_factory.mktemp("edges"))


@pytest.mark.slow
@every_member
def test_a_gradient_whose_squares_overflow_in_one_process_is_scaled_down_alike_in_both(member, found):
    for one in found:
        assert one[f"beyond {member}"] < 1e-10


@pytest.mark.slow
@every_member
def test_few_digits_cost_two_processes_no_more_than_one(member, found):
    """Errors of the way, against float64."""
    for one in found:
        alone, shared = one[f"few digits {member}"]
        assert shared < 1.5 * alone


@pytest.mark.slow
def test_what_the_limiter_did_is_told_of_the_experts_of_all_processes(found):
    for one in found:
        alone, shared = one["shares"]
        assert shared == pytest.approx(alone, rel=1e-10)
        assert 0 < shared["limited_share"] < 1


@pytest.fixture
def of_four():
    """The first of four processes, of which the others are not there."""
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    yield
    distributed.destroy_process_group()


def spread(shape, *placements):
    mesh = init_device_mesh("cpu", {1: (4,), 2: (2, 2)}[len(placements)])
    return nn.Parameter(distribute_tensor(torch.zeros(shape), mesh, placements, src_data_rank=None))


@pytest.mark.parametrize(
    ("shape", "placement", "message"),
    [
        ((8, 4, 4, 2), Shard(2), "dimension 2 of shape (8, 4, 4, 2) is sharded; shard the first or the second one"),
        ((6, 5, 3), Shard(1), "a parameter of shape (6, 5, 3) as (Shard(dim=1),) is cut unevenly over"),
    ],
)
def test_parts_that_no_state_can_lie_along_are_refused(shape, placement, message, of_four):
    groups = [{"params": [("up", spread(shape, placement))], "rank": 2}]
    message_of(ValueError, lambda: optim.GaLore(groups), f"up: {message}")


def test_where_both_sides_are_sharded_there_is_no_side_to_choose(of_four):
    groups = [{"params": [("up", spread((8, 8), Shard(0), Shard(1)))], "rank": 2}]
    optim.GaLore(groups)
    words = "up: side='sharded' of a parameter whose rows and columns are both sharded"
    message_of(ValueError, lambda: optim.GaLore(groups, side="sharded"), words, "'auto', 'left' or 'right'")


def test_parameters_that_their_processes_cannot_exchange_are_refused(of_four, monkeypatch):
    monkeypatch.setattr(distributed, "get_backend_config", lambda group: "cuda:nccl")
    groups = [{"params": [("up", spread((8, 8), Shard(0)))], "rank": 2}]
    message_of(ValueError, lambda: optim.GaLore(groups), "up: it lies on the cpu", "'cpu:gloo,cuda:nccl'")
    monkeypatch.setattr(distributed, "get_backend_config", lambda group: "cpu:gloo,cuda:nccl")
    optim.GaLore(groups)
