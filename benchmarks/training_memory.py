"""What a process grows by when it trains a 60M LLaMA, against the memory report and the tensors that autograd keeps.

Every method trains in a process of its own, with glibc as it comes. The growth is explained in three moments:

- at rest, after the heap gave back what it could: weights, gradients and the optimizer's state;
- at most in forward and backward: weights, state, what autograd keeps, two gradients as large as the logits (that of
  the log-softmax's output and that of its input, which are there before any weight's gradient is), and the free heap;
- at most in the optimizer's step: weights, gradients, state, the workspace of a refresh, the update of the largest
  matrix that is not left to torch's fused AdamW, and the free heap.

Weights, gradients, state and workspace are the memory report's, what autograd keeps is counted by its hooks, and the
free heap, blocks that glibc keeps for the next allocation, is glibc's own count when the moment begins.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks._llama import build
from benchmarks._measure import publish_result
from subspace_lab import optim
from subspace_lab.experiments.outcome import peak_memory
from subspace_lab.optim.methods import METHODS

PRESET, RANK, SEQUENCES, TOKENS = "llama-60m", 128, 8, 64
STEPS = 3  # the last one, which is measured, refreshes
_GLIBC = ctypes.CDLL(None)
_MALLINFO = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class _Mallinfo(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_size_t) for name in _MALLINFO)


def free_heap() -> int:
    """Bytes of the heap that nothing occupies and that the system has not got back."""
    _GLIBC.mallinfo2.restype = _Mallinfo
    return int(_GLIBC.mallinfo2().fordblks)


def resident_at_rest() -> int:
    """What the process holds now, with nothing that it could give back."""
    _GLIBC.malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def forget_peak() -> None:
    """Set the high-water mark of the process to what it holds now."""
    Path("/proc/self/clear_refs").write_text("5")


def optimizer_of(name: str, model: torch.nn.Module, rank: int) -> torch.optim.Optimizer:
    """The optimizer, refreshing every second step where it does not do so at every one."""
    if name == "AdamW":
        return torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    groups = optim.param_groups(model, rank=rank)
    if name == "BAdam":
        return on_largest_block(groups)
    interval = {} if name == "LDAdam" else {"update_interval": 2}
    return METHODS[name.lower()](groups, lr=1e-4, **interval)


def on_largest_block(groups: list[dict[str, Any]]) -> optim.BAdam:
    """BAdam with the seed that draws the largest block first: the report's state is that block's."""
    for seed in itertools.count():
        optimizer = optim.BAdam(groups, lr=1e-4, update_interval=STEPS, seed=seed)
        sizes = {block: sum(p.nbytes for p in parameters) for block, parameters in optimizer.blocks().items()}
        if sizes[optimizer.active_block()] == max(sizes.values()):
            return optimizer
    raise AssertionError


def largest_update(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of the largest matrix whose update is held as a whole; torch's fused AdamW holds none."""
    groups = [group for group in optimizer.param_groups if isinstance(optimizer, optim.BAdam) or group.get("rank")]
    return max((p.nbytes for group in groups for p in group["params"]), default=0)


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> dict[str, int]:
    """One training step: its peaks, and what autograd and the heap kept."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    vocab_size = model.get_input_embeddings().num_embeddings
    ids = torch.randint(vocab_size, (SEQUENCES, TOKENS), generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    forget_peak()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(input_ids=ids, labels=ids).loss
    found = {"activations": sum(kept.values()), "free_heap_before_backward": free_heap()}
    loss.backward()
    found |= {"peak_of_backward": peak_memory(), "free_heap_before_step": free_heap()}
    forget_peak()
    optimizer.step()
    return found | {"peak_of_step": peak_memory()}


def measure_alone(name: str) -> dict[str, Any]:
    """What the process of its own does: grow, and count."""
    warm = build("llama-9m")  # libraries, kernels and threads
    warm_optimizer = optimizer_of(name, warm, 32)
    for seed in range(STEPS):
        step(warm, warm_optimizer, seed)
    del warm, warm_optimizer
    before = resident_at_rest()
    model = build(PRESET)
    optimizer = optimizer_of(name, model, RANK)
    for seed in range(STEPS):
        last = step(model, optimizer, seed)
    at_rest = resident_at_rest()
    tensors = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    report = optim.memory_report(model, name, rank=RANK)
    logits = SEQUENCES * TOKENS * model.config.vocab_size * 4
    rest = {"weights": report.weights, "gradients": report.gradients, "optimizer": report.optimizer}
    backward = {
        "weights": report.weights, "optimizer": report.optimizer, "activations": last["activations"],
        "gradients_of_logits": 2 * logits, "free_heap": last["free_heap_before_backward"],
    }  # fmt: skip
    stepping = {
        **rest, "refresh_workspace": report.refresh_workspace, "largest_update": largest_update(optimizer),
        "free_heap": last["free_heap_before_step"],
    }  # fmt: skip
    return {
        "process_before": before,
        "optimizer_tensors": sum(tensor.nbytes for tensor in tensors),
        "optimizer_report": report.optimizer,
        "at_rest": explain(at_rest - before, rest),
        "forward_and_backward": explain(last["peak_of_backward"] - before, backward),
        "optimizer_step": explain(last["peak_of_step"] - before, stepping),
    }


def explain(growth: int, terms: dict[str, int]) -> dict[str, Any]:
    """A growth, what it is made of, and the share of it that this leaves unexplained, or explains too much."""
    return {"growth": growth, "terms": terms, "unexplained": 1 - sum(terms.values()) / growth}


def measure(name: str) -> dict[str, Any]:
    words = [sys.executable, "-m", "benchmarks.training_memory", "--alone", name]
    found: dict[str, Any] = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    return found


def targets(methods: dict[str, dict[str, Any]]) -> dict[str, tuple[float, str, float]]:
    """What is wanted of the worst method."""
    off = max(abs(found["optimizer_tensors"] - found["optimizer_report"]) for found in methods.values())
    wanted: dict[str, tuple[float, str, float]] = {"optimizer's tensors, bytes off the report": (off, "<=", 0)}
    for moment in ("at_rest", "forward_and_backward", "optimizer_step"):
        worst: float = max(abs(found[moment]["unexplained"]) for found in methods.values())
        wanted[f"unexplained share of the growth, {moment.replace('_', ' ')}"] = (worst, "<=", 0.1)
    return wanted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--alone", metavar="METHOD", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        print(json.dumps(measure_alone(arguments.alone)))
        return
    methods = {kind.__name__: measure(kind.__name__) for kind in METHODS.values()}
    about = {"preset": PRESET, "rank": RANK, "sequences": SEQUENCES, "tokens": TOKENS, "steps": STEPS}
    publish_result({**about, "methods": methods}, targets(methods))


if __name__ == "__main__":
    main()
