"""Experts in one three-dimensional parameter: each its own matrix, with its own state."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import GptOssConfig, GptOssForCausalLM, MixtralConfig, MixtralForCausalLM

from subspace_lab import optim
from tests.optim.members import every_member
from tests.optim.test_memory_report import BASES, NAMES

SHAPE = (4, 6, 10)


def driven(member, p: nn.Parameter, splits: int, name: str = "experts") -> torch.optim.Optimizer:
    optimizer = member.build([{"params": [(name, p)], "rank": 2, "splits": splits}])
    for step in range(8):
        p.grad = torch.randn(SHAPE, generator=torch.Generator().manual_seed(step)).view(p.shape).to(p.dtype)
        optimizer.step()
    return optimizer


def start() -> torch.Tensor:
    return 0.1 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(9))


@every_member
@pytest.mark.parametrize("per_expert", [1, 2])
@pytest.mark.parametrize("layout", ["contiguous", "last dimensions swapped", "every second one"])
def test_a_stack_is_what_its_matrices_below_each_other_are(member, per_expert, layout):
    """Whatever lies how in memory, it is bit for bit the (E a, b) matrix that is split into as many."""
    flat = nn.Parameter(start().reshape(24, 10))
    stack = {
        "contiguous": start(),
        "last dimensions swapped": start().mT.contiguous().mT,
        "every second one": torch.stack([start(), start()], 1).flatten(0, 1)[::2],
    }[layout]
    stack = nn.Parameter(stack)
    expected, found = (driven(member, p, 4 * per_expert).state_dict()["state"][0] for p in (flat, stack))
    exact = layout == "contiguous"
    close = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(stack.detach().reshape(24, 10), flat.detach(), **close)
    assert set(found) == set(expected)
    if member.has_subspaces:
        assert found["exp_avg"].shape == (4 * per_expert, 2, 10) == expected["exp_avg"].shape


def test_a_matrix_of_a_stack_goes_its_own_way():
    """A stack of four takes the step that each expert takes as a parameter of its own; no randomness is in GaLore."""
    stack = nn.Parameter(start())
    alone = [nn.Parameter(part.clone()) for part in start()]
    together = optim.GaLore([{"params": [stack], "rank": 2, "splits": 4}], lr=0.01, update_interval=3)
    apart = optim.GaLore([{"params": alone, "rank": 2}], lr=0.01, update_interval=3)
    for step in range(8):
        stack.grad = torch.randn(SHAPE, generator=torch.Generator().manual_seed(step))
        for p, grad in zip(alone, stack.grad, strict=True):
            p.grad = grad.clone()
        together.step()
        apart.step()
    torch.testing.assert_close(stack.detach(), torch.stack([p.detach() for p in alone]), rtol=0, atol=0)


def test_one_convolution_is_one_matrix():
    p = nn.Parameter(torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0)))
    optimizer = optim.GaLore([{"params": [p], "rank": 2}])
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert optimizer.state[p]["basis"].shape == (4, 2)


def test_rows_that_the_splits_do_not_divide():
    p = nn.Parameter(torch.ones(4, 6, 3))
    with pytest.raises(ValueError, match="splits=20 does not divide its 24 rows"):
        optim.GaLore([{"params": [p], "rank": 2, "splits": 20}])
    with pytest.raises(ValueError, match="splits=3 does not divide its 4 rows"):
        optim.GaLore([{"params": [p], "rank": 2, "splits": 3}])


SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40,
         "num_key_value_heads": 1, "num_local_experts": 3, "head_dim": 8}  # fmt: skip
MIXTURES = {
    "Mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SIZES)),
    "GptOss": lambda: GptOssForCausalLM(GptOssConfig(**SIZES)),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mixture", MIXTURES)
def test_the_bytes_of_experts_are_exact(name, mixture):
    model = MIXTURES[mixture]()
    report = optim.memory_report(model, name, rank=4)
    optimizer = getattr(optim, name)(optim.param_groups(model, rank=4), lr=1e-3, update_interval=2)
    kept = {"states": 0, "bases": 0}
    for seed in range(12):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
        optimizer.step()
        sizes = {"states": 0, "bases": 0}
        for state in optimizer.state.values():
            for key, value in state.items():
                if isinstance(value, torch.Tensor):
                    sizes["bases" if key in BASES else "states"] += value.nbytes
        kept = {part: max(kept[part], size) for part, size in sizes.items()}
    assert (report.states, report.bases) == (kept["states"], kept["bases"])


def test_names_and_shapes_are_enough_for_the_bytes_of_experts():
    model = MIXTURES["Mixtral"]()
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert optim.memory_report(shapes, "GrassWalk", rank=4) == optim.memory_report(model, "GrassWalk", rank=4)


def test_every_expert_learns():
    """The loss of a small mixture falls; the state is that of a rank, not AdamW's."""
    torch.manual_seed(0)
    model = MIXTURES["Mixtral"]()
    ids = torch.randint(40, (4, 12), generator=torch.Generator().manual_seed(0))
    optimizer = optim.GrassWalk(optim.param_groups(model, rank=4), lr=1e-2, update_interval=5)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    for p in model.parameters():
        if p.dim() == 3:
            assert optimizer.state[p]["basis"].shape == (3, 16, 4)
