"""What two processes do at the edges: few digits, gradients whose squares overflow in one of them, experts."""

import torch
from torch import distributed, nn
from torch.distributed.tensor import Shard, distribute_tensor

from subspace_lab import optim
from tests.launch import tell
from tests.optim.members import MEMBERS, ZOO, gradient, groups, parameters
from tests.optim.sharded.nets import mesh_of, whole

STEPS = 6
BEYOND = 2.0**510  # the limit of float64 is 2 ** 500
BF16 = torch.bfloat16


def spread(tensor):
    """A matrix in two halves of its rows; a vector stays whole, since it has no rank."""
    return distribute_tensor(tensor, mesh_of(2), [Shard(0)]) if tensor.dim() > 1 else tensor


def trained(member, dtype, *, shards, beyond=1.0, **settings):
    """The zoo after some steps; in one of them the second half of every matrix's gradient is multiplied."""
    begin = parameters(BF16)  # so that a start in few digits is exact
    zoo = {name: p.detach().to(dtype) for name, p in begin.items()}
    zoo = {name: nn.Parameter(spread(p) if shards else p) for name, p in zoo.items()}
    optimizer = member.build(groups(zoo), **settings)
    for step in range(STEPS):
        for name, p in zoo.items():
            grad = gradient(name, step).to(BF16).to(dtype)
            if step == 2 and grad.dim() > 1:
                grad[len(grad) // 2 :] *= beyond
            p.grad = spread(grad) if shards else grad
        optimizer.step()
    return {name: whole(p.detach()).double() for name, p in zoo.items()}


def distance(one, other):
    """The largest over the matrices, relative to how far the one went that went furthest."""
    begin, matrices = parameters(BF16), [name for name, (_, is_low) in ZOO.items() if is_low]
    furthest = max(float((other[name] - begin[name].detach()).norm()) for name in matrices)
    return max(float((one[name] - other[name]).norm()) for name in matrices) / furthest


def limited(*, shards):
    """What is told of a step of two stacks of experts, whose limiters act differently, and a matrix."""
    torch.manual_seed(1)
    gradients = [[torch.randn(shape).double() for shape in ((4, 6, 8), (2, 5, 7), (6, 8))] for _ in range(4)]
    for step, (experts, _, _) in enumerate(gradients):
        experts[0] *= 4.0**step
    stacks = [nn.Parameter(spread(g.zero_()) if shards else g.zero_()) for g in map(torch.clone, gradients[0])]
    optimizer = optim.GrassWalk(
        [{"params": [p], "splits": len(p) if p.dim() > 2 else 1, "rank": 2} for p in stacks], lr=0.01
    )
    for step in gradients:
        for p, g in zip(stacks, step, strict=True):
            p.grad = spread(g) if shards else g
        optimizer.step()
    return optim.recovery_shares(optimizer)


def work(directory):
    """All cases."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    found = {"shares": [limited(shards=shards) for shards in (False, True)]}
    for member in MEMBERS:
        alone, shared = (
            trained(member, torch.float64, shards=shards, beyond=BEYOND, weight_decay=0.1) for shards in (False, True)
        )
        found[f"beyond {member}"] = distance(shared, alone)
        exact = trained(member, torch.float64, shards=False)
        errors = [
            distance(trained(member, BF16, shards=shards, state_dtype="bfloat16"), exact) for shards in (False, True)
        ]
        found[f"few digits {member}"] = errors
    tell(found, directory)
