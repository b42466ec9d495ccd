"""Where fused matrices lie whose rows are cut over several processes; no process is started."""

import pytest
import torch
from torch.distributed.tensor import Shard

from subspace_lab.optim import sharded
from tests.optim.test_faults import message_of


class Mesh:
    """What a mesh of many processes says of itself in one of them."""

    def __init__(self, *sizes):
        self.sizes, self.ndim = sizes, len(sizes)

    def size(self, way):
        return self.sizes[way]

    def get_local_rank(self, way):
        return self.sizes[way] - 1


class Part:
    """A parameter of two columns and many rows as the last process of a mesh has it."""

    def __init__(self, rows, here, mesh, placements):
        self.shape, self.device_mesh, self.placements = torch.Size((rows, 2)), mesh, placements
        self._local_tensor = torch.zeros(here, 2)

    def numel(self):
        return self.shape.numel()


@pytest.fixture
def are_distributed(monkeypatch):
    monkeypatch.setattr(sharded, "local", lambda p: p._local_tensor)


def test_fused_matrices_lie_whole_where_the_processes_divide_them(are_distributed):
    part = Part(24, 6, Mesh(4), (Shard(0),))
    lies = sharded.shards_of(part, "auto", 8)
    assert (lies.number, lies.first, lies.moves, lies.num_processes) == (2, 6, False, 1)
    assert lies.placements("basis") == lies.placements("exp_avg") == (Shard(0),)


def test_fused_matrices_move_where_they_begin_inside_of_shards(are_distributed):
    lies = sharded.shards_of(Part(15, 3, Mesh(4), (Shard(0),)), "left", 3)  # 4, 4, 4 and 3 rows of 3 matrices of 5
    assert (lies.number, lies.moves, lies.num_processes) == (3, True, 4)
    order, leaving, arriving = lies.fused._moves
    assert (order.tolist(), leaving, arriving) == ([0, 1, 2], [0, 2, 1, 0], [0, 0, 0, 0])  # 2, 2, 1 and 0 rows of each


def test_fused_matrices_that_are_cut_twice_inside_of_shards_are_refused(are_distributed):
    part = Part(24, 6, Mesh(2, 2), (Shard(0), Shard(0)))
    message_of(ValueError, lambda: sharded.shards_of(part, "auto", 3), "splits=3", "another dimension")
