"""Gradients of any finite size: weights and states stay finite, and what is ordinary is not touched."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from subspace_lab import optim
from subspace_lab.optim.magnitude import LIMIT, bounded, shrinking
from subspace_lab.optim.recovery import finite_factors
from tests.optim.members import MEMBERS, every_member

DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.float16]
SHAPES = [(16, 40), (40, 16), (24, 24), (1, 7), (7, 1), (2, 3, 5)]
WHERE = ["column", "row", "entry", "all"]


def normal(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).clamp(-3, 3)


def scaled(shape: tuple[int, ...], step: int, where: str, size: float, dtype: torch.dtype) -> torch.Tensor:
    """A gradient with a part of another size, in the range of the dtype."""
    G, largest = normal(shape, step), torch.finfo(dtype).max
    part = {"column": (..., 0), "row": (0,), "entry": (0,) * len(shape), "all": (...,)}[where]
    G[part] = (G[part] * size).clamp(-largest, largest)
    return G.to(dtype)


def check_finite(optimizer: torch.optim.Optimizer, p: torch.Tensor) -> None:
    assert p.detach().isfinite().all()
    for key, value in optimizer.state[p].items():
        assert torch.as_tensor(value).isfinite().all(), key


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    member=st.sampled_from(MEMBERS),
    shape=st.sampled_from(SHAPES),
    dtype=st.sampled_from(DTYPES),
    where=st.sampled_from(WHERE),
    exponent=st.floats(-0.999, 0.999),
    once=st.booleans(),
    eps=st.sampled_from([1e-8, 0.0]),
    rank=st.sampled_from([3, None]),
)
def test_no_finite_gradient_makes_anything_nan(member, shape, dtype, where, exponent, once, eps, rank):
    """One column, row, entry or all of it, from the smallest number of the dtype to the largest, once or for good."""
    largest = math.log10(torch.finfo(dtype).max)
    p = nn.Parameter(normal(shape, 99).to(dtype))
    optimizer = member.build([{"params": [p], "rank": rank}], eps=eps, weight_decay=0.01)
    for step in range(8):
        is_odd = step == 2 if once else step >= 2
        p.grad = scaled(shape, step, where, 10 ** (exponent * largest) if is_odd else 1.0, dtype)
        optimizer.step()
    check_finite(optimizer, p)


@every_member
@pytest.mark.parametrize("columns", [True, False])
@pytest.mark.parametrize("size", [1e19, 1e30, 3e38])
def test_large_entries_that_cancel_in_the_sum(member, size, columns):
    """The check of most methods looks at the sum; here it is zero, and so are some sums of a projection."""
    p = nn.Parameter(torch.zeros(8, 12))
    optimizer = member.build([{"params": [p], "rank": 3 if columns else 1}])
    for step in range(8):
        p.grad = torch.full((8, 12), size if step == 3 else 1.0)
        p.grad[(slice(None), slice(None, None, 2)) if columns else (slice(None, None, 2),)] *= -1
        optimizer.step()
    check_finite(optimizer, p)


@every_member
@pytest.mark.parametrize("rank", [3, None])
def test_a_gradient_beyond_the_limit_is_scaled_to_it(member, rank):
    """As if it had been clipped by a power of two: that gradient, clipped, gives the same step bit for bit."""
    G = normal((6, 10), 0).float()
    huge = G * 2.0**80
    shrunk = G * 2.0 ** (80 - math.ceil(math.log2(float(G.norm()) * 2.0**24)))
    assert LIMIT / 2 < shrunk.norm() <= LIMIT
    finals = []
    for spike in (huge, shrunk):
        p = nn.Parameter(torch.zeros(6, 10))
        optimizer = member.build([{"params": [p], "rank": rank}])
        for step in range(6):
            p.grad = spike.clone() if step == 2 else normal((6, 10), step + 1).float()
            before = p.grad.clone()
            optimizer.step()
            assert torch.equal(p.grad, before)
        finals.append(p.detach())
    torch.testing.assert_close(*finals, rtol=1e-4, atol=1e-6)


@every_member
@pytest.mark.parametrize("shrink", [1e-15, 1e-18, 1e-20, 1e-21, 1e-22, 1e-25])
@pytest.mark.parametrize("shape", [(16, 32), (32, 16)], ids=str)
def test_a_part_that_was_ordinary_and_is_now_tiny(member, shape, shrink):
    """A factor |O| / |A| that cannot be squared, with the limiter and without it."""
    for zeta in ({}, {"zeta": None}) if member.may_be_unlimited else ({},):
        p = nn.Parameter(torch.zeros(shape))
        optimizer = member.build([{"params": [p], "rank": 4}], update_interval=100, **zeta)
        for step in range(3):
            p.grad = normal(shape, 0).float()
            if step:
                p.grad[:, 0] *= shrink
                p.grad[0] *= shrink
            optimizer.step()
        check_finite(optimizer, p)
        assert p.detach().abs().max() < 1, "thirty times what three steps of Adam move"


@every_member
@pytest.mark.parametrize("rank", [3, None])
def test_zero_gradients_without_eps(member, rank):
    """0/0 where torch's AdamW has it."""
    p = nn.Parameter(torch.ones(6, 8))
    optimizer = member.build([{"params": [p], "rank": rank}], eps=0.0)
    for step in range(8):
        p.grad = normal((6, 8), step).float() * (step in {2, 6})
        p.grad[:, 3] = 0
        optimizer.step()
    check_finite(optimizer, p)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_shrunk_tensor_is_just_below_the_limit(dtype):
    """By the norm in exact arithmetic of Python's fractions, near both ends of the range."""
    largest = torch.finfo(dtype).max
    for scale in (largest, largest / 3, largest**0.5):
        x = (normal((9, 11), 0) / 3 * scale).to(dtype)
        squares = sum(Fraction(value) ** 2 for value in x.flatten().tolist())
        for top in (2.0**3, 2.0**7):
            factor = shrinking(x, top)
            assert math.frexp(factor)[0] == 0.5, "a power of two"
            norm = float(squares * Fraction(factor) ** 2 / Fraction(top) ** 2) ** 0.5
            assert 0.5 - 1e-6 < norm < 1 + 1e-6
    assert shrinking(torch.ones(4, dtype=dtype), 4.0) == shrinking(torch.zeros(0, dtype=dtype), 1.0) == 1.0


def test_a_projection_that_overflowed():
    """Inf - Inf is NaN: such an entry says nothing, others are cut off, and ordinary ones are what they were."""
    A = torch.tensor([torch.nan, torch.inf, -torch.inf, 3e38, -2e18, 1.5, -1e-40])
    most = 2.0**60
    assert torch.equal(bounded(A.clone(), torch.float32), torch.tensor([0, most, -most, most, -most, 1.5, -1e-40]))


@every_member
def test_the_check_counts_bad_entries_or_lets_the_step_pass(member):
    """A sum that overflows is no bad entry, whatever `on_nonfinite` says; four equal rows may be what cosines miss."""
    p = nn.Parameter(torch.zeros(4, 6))
    optimizer = member.build([{"params": [("w", p)], "rank": 2}], on_nonfinite="skip")
    p.grad = torch.finfo(torch.float32).max * torch.linspace(0.5, 1, 4)[:, None].repeat(1, 6)
    optimizer.step()
    assert p.detach().any()
    check_finite(optimizer, p)


def test_a_row_of_adam_is_that_of_torch_below_the_limit():
    """Full-rank, from 1e-30 to 1e15: torch's AdamW bit for bit."""
    for size in (1e-30, 1.0, 1e15):
        one, other = (nn.Parameter(normal((5, 4), 0).float()) for _ in range(2))
        ours, torchs = optim.GaLore([one], rank=None, lr=0.1), torch.optim.AdamW([other], lr=0.1, weight_decay=0)
        torchs.param_groups[0]["fused"] = True
        for step in range(5):
            one.grad = normal((5, 4), step).float() * size
            other.grad = one.grad.clone()
            ours.step()
            torchs.step()
        assert torch.equal(one.detach(), other.detach())


@pytest.mark.parametrize("shrink", [1e-12, 1e-18])
def test_a_column_that_becomes_tiny_is_scaled_as_before(shrink):
    """phi is |O| / |A| at any size whose square is a number: by the literal formula in float64."""
    G = normal((16, 32), 1).float()
    p = nn.Parameter(torch.zeros(16, 32))
    optimizer = optim.SubspaceAdam([{"params": [p], "rank": 4}], rule="frozen", lr=1.0, zeta=None)
    p.grad = G.clone()
    optimizer.step()
    before = p.detach().double()
    p.grad[:, 0] *= shrink
    optimizer.step()
    moved = before - p.detach().double()
    S, M, V = (optimizer.state[p][key].double() for key in ("basis", "exp_avg", "exp_avg_sq"))
    G = p.grad.double()
    A = S.mT @ G
    O = M / (1 - 0.9**2) / ((V / (1 - 0.999**2)).sqrt() + 1e-8)
    phi = O.norm(dim=0) / A.norm(dim=0)
    torch.testing.assert_close(moved, S @ O + (G - S @ A) * phi, rtol=1e-3, atol=1e-4)


# --- what is rounding ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (64, 64)], ids=str)
def test_a_first_gradient_of_low_rank_never_pins_the_limiter(shape):
    """Its bulk is rounding of either sign: over many seeds the norm that the limiter starts from is zero."""
    for seed in range(30):
        p = nn.Parameter(torch.zeros(shape))
        optimizer = optim.Fira([{"params": [p], "rank": 5}])
        p.grad = (normal((shape[0], 1 + seed % 4), seed) @ normal((1 + seed % 4, shape[1]), seed + 100)).float()
        optimizer.step()
        assert float(optimizer.state[p]["recovery_norm"]) == 0, seed
        p.grad = normal(shape, seed + 200).float()
        optimizer.step()
        assert optimizer.limiter_factors() == {next(iter(optimizer.limiter_factors())): 1.0}


@pytest.mark.parametrize("size", [1.0, 1e-12, 1e-24])
def test_signs_of_rounding_are_not_taken(size):
    """All of the gradient lies in the basis: what is left of it is rounding, and no weight moves outside of it."""
    left = torch.linalg.qr(normal((32, 3), 0)).Q
    p = nn.Parameter(torch.zeros(32, 48, dtype=torch.float64).float())
    optimizer = optim.SubspaceAdam(
        [{"params": [p], "rank": 6}], rule="frozen", recovery="sign", moments="keep", lr=1.0, eps=1e3
    )
    p.grad = (size * left @ normal((3, 48), 1)).float()
    optimizer.step()
    assert p.detach().abs().max() < 0.01  # a sign is 1


@pytest.mark.parametrize(
    ("density", "m", "rows"), [(0.07, 100, 7), (0.29, 100, 29), (0.07, 101, 8), (0.001, 10, 1), (1.0, 9, 9)]
)
def test_a_density_is_rounded_up_but_not_for_its_own_rounding(density, m, rows):
    p = nn.Parameter(torch.zeros(m, 2 * m))
    optimizer = optim.FRUGAL([{"params": [p], "rank": 1}], density=density)
    p.grad = torch.ones(m, 2 * m)
    optimizer.step()
    assert optimizer.state[p]["exp_avg"].shape == (rows, 2 * m)
    report = optim.memory_report({"layers.0.up.weight": (m, 2 * m)}, "FRUGAL", rank=1, density=density)
    assert report.states == 8 * rows * 2 * m


def test_limiter_and_shares_are_those_of_matrices_with_a_gradient():
    one, two = (nn.Parameter(torch.zeros(6, 9)) for _ in range(2))
    groups = [{"params": [("one", one)], "rank": 2, "zeta": None}, {"params": [("two", two)], "rank": 2, "zeta": 1.0}]
    optimizer = optim.GrassJump(groups, update_interval=1)
    for step in range(3):
        one.grad, two.grad = normal((6, 9), step).float(), normal((6, 9), step + 50).float()
        if step == 2:
            optimizer.state[two]["recovery_norm"].fill_(1e-6)  # so that the limiter acts
        optimizer.step()
    assert optimizer.limiter_factors().keys() == {"one", "two"}
    assert optim.recovery_shares(optimizer)["limited_share"] == 0.5
    two.grad = None
    optimizer.step()
    assert optimizer.limiter_factors() == {"one": 1.0}
    shares = optim.recovery_shares(optimizer)
    assert (shares["limiter"], shares["limited_share"]) == (1.0, 0.0)


@every_member
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [1e-20, 1e-25, 1e-38])
@pytest.mark.parametrize("where", ["column", "all"])
def test_factors_stay_numbers_in_the_dtype_of_the_products(member, dtype, size, where):
    """A float64 state of parameters of fewer digits holds factors that these cannot."""
    choices = [{}, {"zeta": None}] if member.may_be_unlimited else [{}]
    choices += [{"scaling": "tensor"}] if member.name == "APOLLO" else []
    for more in choices:
        p = nn.Parameter(normal((16, 24), 9).to(dtype))
        optimizer = member.build([{"params": [p], "rank": 2}], state_dtype="float64", eps=1e-30, **more)
        for step in range(6):
            p.grad = scaled((16, 24), step, where, size if step % 2 else 1.0, dtype)
            optimizer.step()
        check_finite(optimizer, p)


@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16, torch.float64])
def test_squared_factors_are_bounded_by_what_the_products_hold(products):
    squares = torch.tensor([torch.nan, 0.0, 1.5, 1e30, 1e60, torch.inf], dtype=torch.float64)
    most = 2.0**1022 if products == torch.float64 else 2.0**126
    expected = torch.tensor([0, 0, 1.5, 1e30, min(1e60, most), most], dtype=torch.float64)
    assert torch.equal(finite_factors(squares.clone(), products), expected)


def test_a_projection_of_float64_that_is_kept_in_float32():
    """What is cut off follows the coarsest of the dtypes that are named."""
    A = torch.tensor([1e140, -1e140, 1.0], dtype=torch.float64)
    coarse = bounded(A.clone(), torch.float64, torch.float32)
    assert coarse.tolist() == [2.0**60, -(2.0**60), 1.0]
    assert torch.equal(bounded(A.clone(), torch.float64), A)
