"""Distributed parameters on a mesh of one process, and what is refused of them."""

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from subspace_lab import optim
from tests.optim.members import ZOO, drive, every_member, gradient, groups, parameters
from tests.optim.sharded.nets import whole
from tests.optim.test_faults import message_of


def distributed_zoo(placements):
    mesh = init_device_mesh("cpu", (1,) * len(placements))
    return {
        name: nn.Parameter(
            distribute_tensor(p.detach(), mesh, [Replicate() if len(p.shape) < 2 else x for x in placements])
        )
        for name, p in parameters(torch.float64).items()
    }


@every_member
@pytest.mark.parametrize("placement", [Shard(0), Shard(1), Replicate()], ids=str)
def test_a_mesh_of_one_process_changes_nothing(member, placement, alone):
    zoo, plain = distributed_zoo([placement]), parameters(torch.float64)
    optimizer, other = (member.build(groups(ps), weight_decay=0.1) for ps in (zoo, plain))
    drive(other, plain, range(7))
    for step in range(7):
        for name, p in zoo.items():
            p.grad = distribute_tensor(gradient(name, step).double(), p.device_mesh, p.placements)
        optimizer.step()
    for name, p in plain.items():
        torch.testing.assert_close(whole(zoo[name].detach()), p.detach(), rtol=1e-12, atol=1e-12)
        state = optimizer.state.get(zoo[name], {})
        assert all(isinstance(value, DTensor) for key, value in state.items() if key not in {"step", "refreshes"})
        for key, value in state.items():
            assert getattr(value, "shape", ()) == getattr(other.state[p][key], "shape", ())


def test_the_side_that_is_not_sharded_is_projected(alone):
    zoo = distributed_zoo([Shard(0)])
    optimizer = optim.GaLore(groups(zoo), side="sharded")
    for name, p in zoo.items():
        p.grad = distribute_tensor(gradient(name, 0).double(), p.device_mesh, p.placements)
    optimizer.step()
    for name, (shape, is_low) in ZOO.items():
        if is_low:
            cols = torch.Size(shape[1:]).numel()
            assert optimizer.state[zoo[name]]["basis"].shape == (cols, 2), name


def test_a_side_that_is_sharded_is_refused_where_nothing_is():
    def build():
        optim.GaLore(groups(parameters()), side="sharded")

    message_of(ValueError, build, "no parameter of the group is", "fully_shard or parallelize_module")


def test_meshes_of_three_dimensions_are_refused(alone):
    zoo = distributed_zoo([Replicate(), Replicate(), Shard(0)])
    message_of(ValueError, lambda: optim.GaLore(groups(zoo)), "blocks.0.wide", "meshes of one or two dimensions")


@pytest.mark.parametrize("use_orig_params", [True, False])
def test_parameters_that_fsdp1_has_flattened_are_refused(use_orig_params, alone):
    from torch.distributed.fsdp import FullyShardedDataParallel

    net = nn.Linear(4, 6)
    model = FullyShardedDataParallel(net, device_id=torch.device("cpu"), use_orig_params=use_orig_params)
    message_of(ValueError, lambda: optim.GaLore(model.parameters(), rank=None), "FSDP1", "fully_shard (FSDP2)")
