"""Distributed parameters on a mesh of one process, and what is refused of them."""

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
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


def blocks(freeze=False):
    """A model of three blocks in shards, and its BAdam."""
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(3, 3, bias=False) for _ in range(3)))
    fully_shard(net, mesh=init_device_mesh("cpu", (1,)))
    return net, optim.BAdam(list(net.named_parameters()), lr=0.1, update_interval=2, freeze_inactive=freeze)


def step(net, optimizer, steps):
    for number in steps:
        for k, p in enumerate(net.parameters()):
            if p.requires_grad:
                p.grad = torch.full_like(p, number + k + 1.0)
        optimizer.step()
        optimizer.zero_grad()


def reloaded(net, optimizer, other, fresh, path):
    """What a distributed checkpoint makes of a fresh optimizer."""
    dcp.save({"model": net.state_dict(), "optimizer": get_optimizer_state_dict(net, optimizer)}, checkpoint_id=path)
    state = {"model": other.state_dict(), "optimizer": get_optimizer_state_dict(other, fresh)}
    dcp.load(state, checkpoint_id=path)
    set_optimizer_state_dict(other, fresh, state["optimizer"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("taken", [1, 2, 3, 5])
def test_a_block_that_is_not_the_first_is_resumed(taken, freeze, alone, tmp_path):
    net, optimizer = blocks(freeze)
    other, fresh = blocks()
    step(net, optimizer, range(taken))
    reloaded(net, optimizer, other, fresh, tmp_path)
    held = [len(one.state) for one in (optimizer, fresh)]
    assert held == [1, 1]
    assert fresh.param_groups[0]["freeze_inactive"] is freeze
    for one in ((net, optimizer), (other, fresh)):
        step(*one, range(taken, 8))
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(whole(p), whole(q))


@pytest.mark.filterwarnings("ignore")
def test_a_block_that_torch_leaves_out_since_it_is_frozen_is_refused(alone, tmp_path):
    net, optimizer = blocks(freeze=True)
    step(net, optimizer, range(3))
    other, fresh = blocks(freeze=True)

    def resume():
        reloaded(net, optimizer, other, fresh, tmp_path)

    message_of(ValueError, resume, "moments are missing", "made with freeze_inactive=False")


def replace_parameters(optimizer, zoo):
    """Give every group a list of the shards of its parameters, as Accelerate does after it has sharded a model."""
    for group in optimizer.param_groups:
        group["params"] = [zoo[name] for name in group["param_names"]]


@every_member
def test_parameters_may_be_replaced_by_their_shards_before_the_first_step(member, alone):
    plain, zoo, started = parameters(torch.float64), distributed_zoo([Shard(0)]), parameters(torch.float64)
    optimizer, other = member.build(groups(started)), member.build(groups(plain))
    replace_parameters(optimizer, zoo)
    drive(other, plain, range(4))
    for step in range(4):
        for name, p in zoo.items():
            p.grad = distribute_tensor(gradient(name, step).double(), p.device_mesh, p.placements)
        optimizer.step()
    for name, p in plain.items():
        torch.testing.assert_close(whole(zoo[name].detach()), p.detach(), rtol=1e-12, atol=1e-12)


@every_member
def test_parameters_with_states_may_not_be_replaced(member, alone):
    zoo, started = distributed_zoo([Shard(0)]), parameters(torch.float64)
    optimizer = member.build(groups(started))
    drive(optimizer, started, range(2))
    replace_parameters(optimizer, zoo)
    message_of(ValueError, optimizer.step, "param_groups[0]", "prepare the optimizer before its first step")


def test_replaced_parameters_are_checked(alone):
    optimizer = optim.GaLore(groups(parameters(torch.float64)))
    replace_parameters(optimizer, distributed_zoo([Replicate(), Replicate(), Shard(0)]))
    message_of(ValueError, optimizer.step, "blocks.0.wide", "meshes of one or two dimensions")


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [((), (1,), "and the parameter is not: load full states"), ((1,), (1, 1), "load it by a distributed checkpoint")],
)
def test_a_refused_state_of_other_processes_changes_nothing(ours, theirs, message, alone):
    def stepped(shape, lr):
        p = nn.Parameter(torch.arange(12.0).view(3, 4).double())
        if shape:
            mesh = init_device_mesh("cpu", shape)
            p = nn.Parameter(distribute_tensor(p.detach(), mesh, [Shard(0)] * len(shape)))
        optimizer = optim.GaLore([{"params": [p], "rank": 2}], lr=lr)
        p.grad = torch.ones_like(p)
        optimizer.step()
        return optimizer, p

    optimizer, p = stepped(ours, lr=0.1)
    other, _ = stepped(theirs, lr=0.5)
    before = {key: whole(value).clone() for key, value in optimizer.state[p].items() if isinstance(value, torch.Tensor)}
    message_of(ValueError, lambda: optimizer.load_state_dict(other.state_dict()), message)
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert before
    for key, value in before.items():
        torch.testing.assert_close(whole(optimizer.state[p][key]), value, rtol=0, atol=0)
