"""No more vectors than stated, seen from outside: the peak of a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from subspace_lab.analysis.loss.hessian import memory_vectors

SIZE = 1_000_000
SCRIPT = f"""
import sys, torch
import subspace_lab as sl

class Diagonal(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.v, self.w = (torch.nn.Parameter(torch.zeros(size)) for _ in range(2))
        self.d = torch.linspace(0, 1, size)
        self.d[:12] = torch.arange(12, 0, -1) * 10.0

def loss(model, batch):
    return sum((w.square() @ model.d) / 2 + w.sum() for w in (model.v, model.w))

def peak():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024

k, layers = int(sys.argv[1]), sys.argv[3:]
measure = getattr(sl.analysis, sys.argv[2])
measure(Diagonal(10_000), loss, None, layers, k=k)  # whatever is imported, is
model = Diagonal({SIZE})
before = peak()
found = measure(model, loss, None, layers, k=k)
assert before < peak()
print((peak() - before) / (4 * {SIZE}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("k", "what", "layers"), [(3, "hessian", ["w"]), (10, "loss_curvature", ["v", "w"])])
def test_ceiling(k, what, layers):
    """The vectors of one block are gone before those of the next are there."""
    fixed = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "100000"}  # so that what is freed is given back at once
    command = [sys.executable, "-c", SCRIPT, str(k), what, *layers]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=fixed)
    vectors = float(done.stdout)
    assert memory_vectors(k) - 6 < vectors < memory_vectors(k)
