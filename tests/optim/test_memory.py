"""What is kept, to the byte, and what a step needs for a moment."""

from __future__ import annotations

import tracemalloc
from unittest import mock

import pytest
import scipy.linalg
import torch

from tests.optim.members import MEMBERS

every_member = pytest.mark.parametrize("member", MEMBERS, ids=str)


def numbers(name: str, m: int, n: int, r: int) -> int:
    """Float32 numbers that a method keeps of an m x n matrix, ``m <= n``, by its paper; an index counts as two."""
    basis, moments = m * r, 2 * n * r
    return {
        **dict.fromkeys(("GrassWalk", "GrassJump", "SubTrack", "Fira", "SubspaceAdam"), basis + moments + 1),
        "fira-before-bias-correction": basis + moments + 1,
        **dict.fromkeys(("GaLore", "GoLore", "svd-reset-sign"), basis + moments),
        **dict.fromkeys(("LDAdam", "track-transport-feedback"), basis + moments + m * n),
        "APOLLO": moments + 1,
        "FastGrassWalk": moments + 1 + r,
        "FastGrassJump": moments + 1,
        "DCTAdamW": moments + m * n + r,
        "FRUGAL": moments + 2 * r,
        "OnlineSubspaceDescent": 3 * basis + moments,
        "RSO": moments + n * r,
        "BAdam": 2 * m * n,
    }[name]


@every_member
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize(("shape", "r"), [((24, 40), 5), ((40, 24), 5), ((24, 24), 5), ((24, 40), 24), ((24, 40), 99)])
def test_state_is_the_formula_to_the_byte(member, dtype, shape, r):
    p = torch.nn.Parameter(torch.zeros(shape, dtype=dtype))
    optimizer = member.build([{"params": [p], "rank": r}])
    for seed in range(5):
        p.grad = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
        optimizer.step()
    tensors = [value for value in optimizer.state[p].values() if isinstance(value, torch.Tensor)]
    m, n = sorted(shape)
    size = 8 if dtype == torch.float64 else 4
    expected = size * numbers(str(member), m, n, min(r, m))
    if size == 8:  # an index has as many bytes, whatever the rest has
        expected -= {"FRUGAL": 8, "FastGrassWalk": 4, "DCTAdamW": 4}.get(member.name, 0) * min(r, m)
    assert sum(tensor.untyped_storage().nbytes() for tensor in tensors) == expected


def seen_by_torch(eigh):
    """LAPACK's eigenvectors and work space, which NumPy allocates, as an allocation of torch at the same place."""

    def recorded(*arguments, **settings):
        tracemalloc.start()
        found = eigh(*arguments, **settings)
        torch.empty(tracemalloc.get_traced_memory()[1], dtype=torch.uint8)
        tracemalloc.stop()
        return found

    return recorded


def most_held(step) -> int:
    """Most bytes that a call holds beyond what there was before, by the allocator's own record."""
    eigh = mock.patch("scipy.linalg.eigh", seen_by_torch(scipy.linalg.eigh))
    with eigh, torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def test_the_record_of_allocations_sees_what_is_held():
    def step() -> None:
        a = torch.empty(1000)
        del a
        kept = [torch.empty(1000), torch.empty(500)]
        del kept

    assert most_held(step) == pytest.approx(6000, abs=200)


@every_member
@pytest.mark.parametrize("shape", [(192, 768), (768, 192), (384, 384)], ids=str)
@pytest.mark.parametrize("interval", [1000, 1], ids=["between refreshes", "refreshing"])
def test_a_step_needs_no_more_than_two_tensors_of_the_largest_layer(member, shape, interval):
    """Three layers of one shape: what is held is that of one, not of all.

    The exception is a refresh that decomposes G exactly, of a matrix that is about square; see `own_space`. What BAdam
    holds for a new block is its state.
    """
    layers = [torch.nn.Parameter(torch.zeros(shape)) for _ in range(3)]
    optimizer = member.build([{"params": layers, "rank": 32}], update_interval=interval)
    for seed in range(2):
        step_once(optimizer, layers, seed)
    allowed = 2 * layers[0].nbytes
    if interval == 1 and (member.name in {"GaLore", "GoLore", "Fira"} or str(member) == "svd-reset-sign"):
        allowed = max(allowed, own_space(min(shape), 32))
    if interval == 1 and member.name == "BAdam":
        allowed += 2 * layers[0].nbytes
    assert most_held(optimizer.step) <= allowed


@every_member
@pytest.mark.parametrize("shape", [(192, 768), (768, 192), (384, 384)], ids=str)
def test_so_does_the_first_step_beside_the_state_that_it_makes(member, shape):
    p = torch.nn.Parameter(torch.zeros(shape))
    optimizer = member.build([{"params": [p], "rank": 32}])
    p.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    held = most_held(optimizer.step)
    state = sum(value.nbytes for value in optimizer.state[p].values() if isinstance(value, torch.Tensor))
    assert held - state <= max(2 * p.nbytes, own_space(min(shape), 32))


def step_once(optimizer, layers, seed: int) -> None:
    for i, p in enumerate(layers):
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(10 * seed + i))
    optimizer.step()


def own_space(m: int, r: int) -> int:
    """In float64 the Gram matrix, r eigenvectors and less than 42 numbers a row of LAPACK's: two float32 layers and r/m
    of two more where a layer is square, less than two where ``n >= m + r + 42``."""
    return 8 * m * (m + r + 42)
