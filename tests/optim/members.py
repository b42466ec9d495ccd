"""The optimizers that share the contract: one line each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from subspace_lab import optim

COUNTS = {"step", "refreshes"}
MOMENTS = {"exp_avg", "exp_avg_sq"}
CORE = COUNTS | MOMENTS | {"basis"}
RECOVERED = CORE | {"recovery_norm"}


@dataclass(frozen=True)
class Member:
    """An optimizer and what the contract must know of it.

    Attributes:
        name: Its class.
        keys: State of a parameter in a subspace.
        options: Settings beside the rank, the learning rate and an interval of 3.
        training: What it takes to train well, where that is not what the others take: settings, and ``pace``, its
            learning rate over theirs.
        is_random: Whether its trajectory depends on the seed.
        has_subspaces: Whether it keeps something of reduced size for each matrix (BAdam does not).
        label: What to call it, where the name is not enough.
    """

    name: str
    keys: set[str]
    options: dict = field(default_factory=dict)
    training: dict = field(default_factory=dict)
    is_random: bool = False
    has_subspaces: bool = True
    label: str = ""

    @property
    def may_be_unlimited(self) -> bool:
        """Whether its limiter can be switched off; one whose kind is said cannot."""
        return "recovery_norm" in self.keys and "limiter" not in self.options

    def __str__(self) -> str:
        return self.label or self.name

    def build(self, params, **settings) -> torch.optim.Optimizer:
        """The optimizer, with an interval that the tests see the end of."""
        return getattr(optim, self.name)(params, **{"lr": 0.01, "update_interval": 3, **self.options, **settings})

    def factory(self, **settings) -> Callable[..., torch.optim.Optimizer]:
        return functools.partial(self.build, **settings)


MEMBERS = [
    Member("GrassWalk", RECOVERED, is_random=True),
    Member("GrassJump", RECOVERED, is_random=True),
    Member("SubTrack", RECOVERED),
    Member("GaLore", CORE, training={"pace": 4}),
    Member("GoLore", CORE, {"random_after": 5}, {"pace": 4, "random_after": 300}, is_random=True),
    Member("LDAdam", CORE | {"error"}, training={"update_interval": 1}),
    Member("Fira", RECOVERED, training={"pace": 4}),
    Member("Fira", RECOVERED, {"limiter": "before_bias_correction"}, {"pace": 4}, label="fira-before-bias-correction"),
    Member("APOLLO", COUNTS | MOMENTS | {"recovery_norm"}, is_random=True),
    Member("FRUGAL", COUNTS | MOMENTS | {"indices"}, is_random=True),
    Member(
        "OnlineSubspaceDescent",
        CORE | {"basis_exp_avg", "basis_exp_avg_sq"},
        training={"update_interval": 1, "pace": 0.3},
    ),
    Member("RSO", COUNTS | MOMENTS | {"coordinates"}, is_random=True),
    Member("BAdam", {"step"} | MOMENTS, is_random=True, has_subspaces=False),
    Member("FastGrassWalk", COUNTS | MOMENTS | {"recovery_norm", "indices"}, is_random=True),
    Member("FastGrassJump", COUNTS | MOMENTS | {"recovery_norm"}, is_random=True),
    Member("DCTAdamW", COUNTS | MOMENTS | {"indices", "error"}, training={"update_interval": 1}),
    Member("SubspaceAdam", RECOVERED, {"rule": "hybrid", "jump_every": 2}, is_random=True),
    Member("SubspaceAdam", CORE, {"rule": "svd", "moments": "reset", "recovery": "sign"}, label="svd-reset-sign"),
    Member(
        "SubspaceAdam",
        CORE | {"error"},
        {"rule": "track", "moments": "transport", "recovery": "feedback"},
        {"update_interval": 1, "pace": 0.3},
        label="track-transport-feedback",
    ),
]

DTYPES = [torch.float32, torch.bfloat16, torch.float64]
every_member = pytest.mark.parametrize("member", MEMBERS, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))

# A small zoo of parameters: name -> (shape, whether its group has a rank).
ZOO: dict[str, tuple[tuple[int, ...], bool]] = {
    "blocks.0.wide": ((6, 10), True),
    "blocks.0.tall": ((12, 5), True),
    "blocks.1.conv": ((4, 3, 2, 2), True),
    "norm.bias": ((7,), False),
}


def parameters(dtype: torch.dtype = torch.float32, names=tuple(ZOO)) -> dict[str, torch.nn.Parameter]:
    """The zoo, the same at every call."""
    generator = torch.Generator().manual_seed(7)
    full = {name: 0.1 * torch.randn(shape, generator=generator) for name, (shape, _) in ZOO.items()}
    return {name: torch.nn.Parameter(full[name].to(dtype)) for name in names}


def groups(zoo: dict[str, torch.nn.Parameter], rank: int = 2) -> list[dict]:
    """Two groups of named parameters, with and without a rank."""
    low = [(name, p) for name, p in zoo.items() if ZOO[name][1]]
    full = [(name, p) for name, p in zoo.items() if not ZOO[name][1]]
    return [{"params": ps, "rank": r} for ps, r in ((low, rank), (full, None)) if ps]


def gradient(name: str, step: int) -> Tensor:
    """The gradient of a parameter of the zoo at a step, whatever its value."""
    generator = torch.Generator().manual_seed(1000 * step + list(ZOO).index(name))
    return torch.randn(ZOO[name][0], generator=generator)


def drive(optimizer: torch.optim.Optimizer, zoo: dict[str, torch.nn.Parameter], steps: range) -> None:
    """Take steps with the zoo's gradients."""
    for step in steps:
        for name, p in zoo.items():
            p.grad = gradient(name, step).to(p.dtype)
        optimizer.step()


def values(zoo: dict[str, torch.nn.Parameter]) -> dict[str, Tensor]:
    """Copies of the parameters' values."""
    return {name: p.detach().clone() for name, p in zoo.items()}


def check_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def started(member: Member, steps: int, dtype: torch.dtype = torch.float32, **settings):
    """A zoo and its optimizer after some steps."""
    zoo = parameters(dtype)
    optimizer = member.build(groups(zoo), **settings)
    drive(optimizer, zoo, range(steps))
    return zoo, optimizer
