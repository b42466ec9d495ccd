"""Which steps of which method count as work on the subspace, and what the clock adds up."""

import time

import pytest
import torch

from subspace_lab.optim import METHODS, BAdam, RefreshClock
from subspace_lab.optim.low_rank import LowRankOptimizer

EVERY_THIRD = [1, 4, 7]
ALL = [1, 2, 3, 4, 5, 6, 7]
EXPECTED = {  # those that draw or look up a basis anew; one that moves after the step
    **dict.fromkeys(("apollo", "rso", "fastgrasswalk", "fastgrassjump", "dctadamw"), ALL),
    "onlinesubspacedescent": [1, 3, 6],
}
LOW_RANK = [name for name, kind in METHODS.items() if issubclass(kind, LowRankOptimizer)]


class Bell:
    """Remembers at which step it was entered."""

    def __init__(self):
        self.t, self.rung = 0, []

    def __enter__(self):
        self.rung.append(self.t)

    def __exit__(self, *_):
        pass


@pytest.mark.parametrize("name", LOW_RANK)
def test_steps_that_count(name):
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(6, 9))
    optimizer = METHODS[name]([parameter], rank=2, lr=1e-3, update_interval=3)
    bell = optimizer.refresh_clock = Bell()
    for bell.t in ALL:
        parameter.grad = torch.randn(6, 9)
        optimizer.step()
    assert bell.rung == EXPECTED.get(name, EVERY_THIRD)


def test_only_adamw_and_badam_have_no_subspace():
    assert {METHODS[name] for name in METHODS.keys() - set(LOW_RANK)} == {torch.optim.AdamW, BAdam}


def test_the_clock_adds_up(monkeypatch):
    times = iter([10.0, 10.5, 20.0, 22.0, 30.0, 30.25])
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))
    clock = RefreshClock()
    for _ in range(2):
        with clock:
            pass
    assert clock.lap() == 2.5
    with clock:
        pass
    assert (clock.seconds, clock.lap(), clock.seconds) == (0.25, 0.25, 0.0)
