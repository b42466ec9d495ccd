"""What holds of every optimizer: one suite, joined by one line in `members`."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch.optim.optimizer import Optimizer

from subspace_lab import optim
from tests.optim.members import (
    MEMBERS,
    ZOO,
    check_equal,
    drive,
    every_dtype,
    every_member,
    gradient,
    groups,
    parameters,
    started,
    values,
)
from tests.optim.problems import PROBLEMS, train


def test_every_method_joins() -> None:
    assert {member.name for member in MEMBERS} == {*optim.methods.__all__, "SubspaceAdam"}


# --- it trains -------------------------------------------------------------------------------------------------------


@every_member
@pytest.mark.parametrize(
    ("problem", "rank", "lr", "close"),
    [("quadratic", 4, 0.3, 1e-2), ("rosenbrock", 2, 0.2, 5e-2), ("regression", 4, 0.3, 1e-3)],
)
def test_converges(member, problem, rank, lr, close):
    settings = {"pace": 1, "update_interval": 10, **member.training}
    task = PROBLEMS[problem]()
    solution = train(task, member.factory(lr=lr * settings.pop("pace"), **settings), rank)
    assert task.excess(solution) < close


# --- parameters of every kind ----------------------------------------------------------------------------------------


@every_member
def test_parameters_without_gradients_stay_and_have_no_state(member):
    zoo = parameters()
    frozen, unused = zoo["blocks.0.tall"].requires_grad_(False), zoo["blocks.1.conv"]
    optimizer = member.build(groups(zoo), weight_decay=0.1)
    before = values(zoo)
    for step in range(2 * len(ZOO) * 3):
        zoo["blocks.0.wide"].grad = gradient("blocks.0.wide", step)
        optimizer.step()
    assert torch.equal(frozen, before["blocks.0.tall"])
    assert torch.equal(unused, before["blocks.1.conv"])
    assert not optimizer.state.get(frozen)
    assert not optimizer.state.get(unused)
    assert not torch.equal(zoo["blocks.0.wide"], before["blocks.0.wide"])


@every_member
def test_sparse_gradients_do_what_dense_ones_do(member):
    finals = []
    for is_sparse in (True, False):
        zoo = parameters()
        optimizer = member.build(groups(zoo))
        for step in range(12):
            for name, p in zoo.items():
                rows = torch.tensor([step % p.shape[0], (step + 1) % p.shape[0]])
                dense = torch.zeros(p.shape).index_add_(0, rows, gradient(name, step)[rows])
                p.grad = dense.to_sparse(1) if is_sparse else dense
            optimizer.step()
        finals.append(values(zoo))
    check_equal(*finals)


@every_member
def test_a_group_added_later_trains_and_leaves_the_others_alone(member):
    if not member.has_subspaces:
        pytest.skip("a block more is a turn more: the others do change")
    zoo, optimizer = started(member, 4)
    other = parameters()
    alone = member.build(groups(other))
    drive(alone, other, range(10))
    late = torch.nn.Parameter(torch.zeros(5, 8))
    optimizer.add_param_group({"params": [("late.weight", late)], "rank": 2})
    for step in range(4, 10):
        late.grad = torch.ones(5, 8) + 0.1 * torch.randn(5, 8, generator=torch.Generator().manual_seed(step))
        drive(optimizer, zoo, range(step, step + 1))
    check_equal(values(zoo), values(other))
    assert set(optimizer.state[late]) == member.keys
    assert late.detach().sum() < 0


@every_member
def test_a_group_added_later_takes_its_turn(member):
    """Whatever the method, a late parameter goes downhill: for BAdam, once its block has been active."""
    zoo, optimizer = started(member, 4)
    late = torch.nn.Parameter(torch.zeros(5, 8))
    optimizer.add_param_group({"params": [("late.weight", late)], "rank": 2})
    for step in range(4, 4 + 3 * 10):
        late.grad = torch.ones(5, 8) + 0.1 * torch.randn(5, 8, generator=torch.Generator().manual_seed(step))
        drive(optimizer, zoo, range(step, step + 1))
    assert late.detach().mean() < -0.01


@every_member
def test_convolutions_are_matrices_of_their_filters(member):
    conv, flat = torch.nn.Parameter(torch.zeros(4, 3, 2, 2)), torch.nn.Parameter(torch.zeros(4, 12))
    one, two = member.build([{"params": [conv], "rank": 2}]), member.build([{"params": [flat], "rank": 2}])
    for step in range(8):
        conv.grad = gradient("blocks.1.conv", step)
        flat.grad = conv.grad.flatten(1).clone()
        one.step()
        two.step()
    assert torch.equal(conv.detach().flatten(1), flat.detach())


@every_member
@every_dtype
def test_memory_layout_does_not_matter(member, dtype):
    """Parameters that are transposed in memory, and gradients that are, one or the other or both."""
    finals = []
    for p_turned, g_turned in ((False, False), (True, False), (False, True), (True, True)):
        start = parameters(dtype)["blocks.0.wide"].detach()
        p = torch.nn.Parameter(start.T.contiguous().T if p_turned else start)
        optimizer = member.build([{"params": [p], "rank": 2}])
        for step in range(8):
            g = gradient("blocks.0.wide", step).to(dtype)
            p.grad = g.T.contiguous().T if g_turned else g
            optimizer.step()
        assert p.is_contiguous() != p_turned
        finals.append(p.detach().double())
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    for final in finals[1:]:
        torch.testing.assert_close(final, finals[0], rtol=tolerance, atol=tolerance * 0.1)


@every_member
def test_parameters_of_one_shape_do_not_share_their_randomness(member):
    if not member.is_random or not member.has_subspaces:
        pytest.skip("nothing is drawn for a parameter")
    twins = [torch.nn.Parameter(torch.zeros(6, 10)) for _ in range(2)]
    optimizer = member.build([{"params": twins, "rank": 2}])
    for step in range(9):
        for p in twins:
            p.grad = gradient("blocks.0.wide", step)
        optimizer.step()
    assert not torch.equal(*(p.detach() for p in twins))


# --- gradients of every kind -----------------------------------------------------------------------------------------


@every_member
def test_zero_gradients_leave_everything_finite_and_recovery_alive(member):
    """Zero at first, in between and for a whole interval: no NaN, and afterwards it moves as if they had not been."""
    zoo = parameters()
    optimizer = member.build(groups(zoo))
    start = values(zoo)
    for step in range(40):
        is_zero = step < 4 or step in {6, 7} or 12 <= step < 20
        for name, p in zoo.items():
            p.grad = torch.zeros_like(p) if is_zero else gradient(name, step)
        optimizer.step()
        if step < 4:
            check_equal(values(zoo), start)
        for name, p in zoo.items():
            assert p.detach().isfinite().all(), (name, step)
            for key, value in optimizer.state[p].items():
                assert torch.as_tensor(value).isfinite().all(), (name, key, step)
    if "recovery_norm" in member.keys:
        for name in ("blocks.0.wide", "blocks.0.tall", "blocks.1.conv"):
            assert optimizer.state[zoo[name]]["recovery_norm"] > 0.05 * zoo[name].numel() ** 0.5


@every_member
def test_weights_decay_under_a_zero_first_gradient(member):
    """It is no step in a subspace yet, but it is one of decoupled weight decay, as it is for torch's AdamW."""
    if not member.has_subspaces:
        pytest.skip("only one block is stepped")
    zoo = parameters()
    before, optimizer = values(zoo), member.build(groups(zoo), lr=0.1, weight_decay=0.5)
    for p in zoo.values():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in zoo.items():
        torch.testing.assert_close(p.detach(), 0.95 * before[name])


@every_member
def test_the_first_step_after_a_zero_gradient_is_not_limited(member):
    if "recovery_norm" not in member.keys:
        pytest.skip("nothing is recovered")
    norms = []
    for zeta in (1.01, 1e30):
        p = parameters()["blocks.0.wide"]
        optimizer = member.build([{"params": [p], "rank": 2}], zeta=zeta, update_interval=100)
        for step in range(6):
            p.grad = gradient("blocks.0.wide", step) * (step != 4)
            optimizer.step()
        norms.append(float(optimizer.state[p]["recovery_norm"]))
    assert norms[0] == norms[1] > 0


@every_member
def test_block_sparse_gradients_do_not_explode(member):
    """Rows and columns that no basis has seen: a step stays of the size of Adam's."""
    p = torch.nn.Parameter(torch.zeros(8, 16))
    optimizer = member.build([{"params": [p], "rank": 3}], lr=1.0, update_interval=6)
    for step in range(24):
        dense = torch.randn(8, 16, generator=torch.Generator().manual_seed(step))
        p.grad = torch.zeros(8, 16)
        rows, cols = (slice(0, 4), slice(0, 8)) if step % 6 < 2 else (slice(4, 8), slice(8, 16))
        p.grad[rows, cols] = dense[rows, cols]
        before = p.detach().clone()
        optimizer.step()
        assert (p.detach() - before).norm() < 10 * 16 * 8**0.5, step


@every_member
def test_gradients_are_not_changed(member):
    zoo, optimizer = started(member, 5)
    for name, p in zoo.items():
        p.grad = gradient(name, 5)
    optimizer.step()
    for name, p in zoo.items():
        assert torch.equal(p.grad, gradient(name, 5))


@every_member
def test_tiny_and_huge_gradients(member):
    """Adam's step does not depend on the size of the gradient; squares must not under- or overflow on the way."""
    finals = []
    for size in (1e-12, 1.0, 1e12):
        p = parameters()["blocks.0.wide"]
        optimizer = member.build([{"params": [p], "rank": 2}], eps=0.0)
        for step in range(7):
            p.grad = gradient("blocks.0.wide", step) * size
            optimizer.step()
        finals.append(p.detach())
    torch.testing.assert_close(finals[0], finals[1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(finals[2], finals[1], rtol=1e-3, atol=1e-4)


# --- torch's optimizer contract --------------------------------------------------------------------------------------


@every_member
def test_signatures_are_torchs(member):
    cls = type(member.build(groups(parameters())))
    for ancestor in cls.__mro__[: cls.__mro__.index(Optimizer)]:
        for name, function in vars(ancestor).items():
            if inspect.isfunction(function) and hasattr(Optimizer, name) and not name.startswith("__"):
                expected = inspect.signature(getattr(Optimizer, name)).parameters.values()
                got = inspect.signature(function).parameters.values()
                assert [(p.name, p.kind, p.default) for p in got] == [(p.name, p.kind, p.default) for p in expected], (
                    name
                )


@every_member
def test_closure(member):
    zoo, optimizer = started(member, 0)
    calls = []

    def closure() -> torch.Tensor:
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        loss = sum((p * gradient(name, len(calls))).sum() for name, p in zoo.items())
        loss.backward()
        calls.append(loss)
        return loss

    for step in range(5):
        assert optimizer.step(closure) is calls[step]
    assert len(calls) == 5
    plain, _ = started(member, 5)
    check_equal(values(zoo), values(plain))
    assert optimizer.step() is None


@every_member
def test_schedulers(member):
    """A learning rate of a scheduler is the learning rate; at zero nothing moves, not even by decay."""
    zoo, optimizer = started(member, 0, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0 if step >= 6 else 1 / (1 + step))
    other = parameters()
    by_hand = member.build(groups(other), weight_decay=0.1)
    for step in range(9):
        before = values(zoo)
        drive(optimizer, zoo, range(step, step + 1))
        if step >= 6:
            check_equal(values(zoo), before)
        for group in by_hand.param_groups:
            group["lr"] = 0.01 * (0.0 if step >= 6 else 1 / (1 + step))
        drive(by_hand, other, range(step, step + 1))
        check_equal(values(zoo), values(other))
        schedule.step()


@every_member
def test_grad_scaler(member):
    """Scaling by a power of two changes no bit, and a step with an overflow is left out."""
    zoo, optimizer = started(member, 0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
    taken = 0
    for step in range(9):
        for name, p in zoo.items():
            p.grad = gradient(name, taken) * scaler.get_scale()
        scaler.scale(torch.zeros(()))
        if step == 4:
            zoo["blocks.0.wide"].grad[0, 0] = torch.inf
        scaler.step(optimizer)
        scaler.update()
        taken += step != 4
    plain, _ = started(member, taken)
    check_equal(values(zoo), values(plain))


@every_member
def test_named_parameters_and_plain_ones_give_one_trajectory(member):
    if not member.has_subspaces:
        pytest.skip("names make blocks")
    zoo, other = parameters(), parameters()
    named = member.build(groups(zoo))
    for group in named.param_groups:
        group["draws_by"] = "place"  # by name, they would be others
    drive(named, zoo, range(6))
    plain = [{"params": [p for _, p in group["params"]], "rank": group["rank"]} for group in groups(other)]
    drive(member.build(plain), other, range(6))
    check_equal(values(zoo), values(other))


# --- bfloat16 --------------------------------------------------------------------------------------------------------


@every_member
def test_bfloat16_parameters_keep_moving_when_updates_are_tiny(member):
    """At 1, bfloat16 has steps of 1/128: updates of 1e-5 are lost, and stochastic rounding keeps their mean."""
    shape, steps = (48, 96), 60
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(shape, generator=generator).bfloat16()
    moved = {}
    for dtype, stochastic in ((torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)):
        p = torch.nn.Parameter(torch.ones(shape, dtype=dtype))
        optimizer = member.build([{"params": [p], "rank": 8}], lr=2e-5, stochastic_rounding=stochastic)
        for _ in range(steps):
            p.grad = mean.to(dtype)
            optimizer.step()
        moved[dtype, stochastic] = p.detach().float() - 1
    assert not moved[torch.bfloat16, False].any()
    exact, rounded = moved[torch.float32, False], moved[torch.bfloat16, True]
    share = float((exact * rounded).sum() / exact.square().sum())
    spread = (exact.square() * exact.abs() / 128).sum().sqrt() / exact.square().sum()
    assert share == pytest.approx(1, abs=5 * float(spread) + 0.02)
