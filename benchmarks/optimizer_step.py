"""Time and memory of one optimizer step on the linear layers of LLaMA-60M, ours against others', on 2 threads and on 1.

Everything that is compared is stepped in turn in this one process, on the same gradients; take it on an idle machine.
"""

from __future__ import annotations

import argparse
import math
import statistics
from typing import Any

import torch

from benchmarks._contenders import (
    NEVER,
    Layers,
    Step,
    apollo_torch,
    bare_products,
    galore_torch,
    ours,
    pytorch_optimizers,
    state_bytes,
    torch_adamw,
)
from benchmarks._llama import backward, build
from benchmarks._measure import alternate, compare, publish_result
from subspace_lab import optim

PRESET, RANK, INTERVAL = "llama-60m", 128, 200
TOP = 12  # operations in a profile
GROWTH = {"llama-9m": 32, "llama-60m": 128, "llama-130m": 256, "llama-350m": 256}
METHODS = ("GrassWalk", "GrassJump", "SubTrack", "GaLore", "GoLore", "LDAdam", "Fira", "APOLLO", "FRUGAL",
           "OnlineSubspaceDescent", "RSO", "BAdam")  # fmt: skip


def stepping(layers: Layers) -> dict[str, Step]:
    """What is stepped between refreshes; the first step, with its SVD or first basis, is taken here."""
    contenders: dict[str, Step] = {"products": bare_products(layers), "torch AdamW": torch_adamw(layers).step}
    contenders |= {"galore-torch": galore_torch(layers).step, "apollo-torch": apollo_torch(layers).step}
    for name in ("GaLore", "Fira"):
        contenders[f"pytorch_optimizer {name}"] = pytorch_optimizers(name, layers).step
    for name in ("GrassWalk", "GrassJump", "SubTrack", "GaLore", "Fira", "APOLLO", "LDAdam"):
        interval = 1 if name == "LDAdam" else {}
        contenders[name] = ours(name, layers, **({"interval": interval} if interval else {})).step
    for step in contenders.values():
        step()
    return contenders


def refreshing(layers: Layers) -> dict[str, Step]:
    """Steps that refresh every time, moments carried over."""
    names = ("GrassWalk", "GrassJump", "SubTrack")
    contenders = {f"{name}, refreshing": ours(name, layers, interval=1).step for name in names}
    for step in contenders.values():
        step()
    return contenders


def steps(rounds: int) -> dict[str, Any]:
    """Medians, ratios and what refreshes add, at the threads that are set."""
    layers = Layers.of(PRESET, RANK)
    seconds = alternate({**stepping(layers), **refreshing(layers)}, rounds, warm=2)
    seconds |= {"galore-torch, refreshing": alternate({"": galore_torch(layers, interval=1).step}, 3)[""]}
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    refresh = {
        name: medians[f"{name}, refreshing"] - medians[name]
        for name in ("GrassWalk", "GrassJump", "SubTrack", "galore-torch")
    }
    pairs = [
        ("GrassWalk", "products"), ("GrassJump", "products"), ("GrassWalk", "galore-torch"),
        ("GrassJump", "galore-torch"), ("GaLore", "pytorch_optimizer GaLore"), ("Fira", "pytorch_optimizer Fira"),
        ("APOLLO", "apollo-torch"), ("GrassWalk", "torch AdamW"),
    ]  # fmt: skip
    return {
        "step_s": medians,
        "refresh_s": refresh,
        "amortised_s": {name: medians[name] + extra / INTERVAL for name, extra in refresh.items()},
        "ratios": {f"{one} / {other}": compare(seconds, one, other) for one, other in pairs},
    }


def profile(name: str, interval: int, dtype: torch.dtype = torch.float32, steps: int = 3) -> dict[str, Any]:
    """Where the time of a step goes: milliseconds and calls by operation, the longest first, and what Python takes."""
    optimizer = ours(name, Layers.of(PRESET, RANK, dtype), interval=interval)
    for _ in range(2):
        optimizer.step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as recorded:
        for _ in range(steps):
            optimizer.step()
    events = sorted(recorded.key_averages(), key=lambda event: -event.self_cpu_time_total)
    return {
        event.key.replace("Optimizer.step#", "Python in "): {
            "ms": round(event.self_cpu_time_total / 1e3 / steps, 3), "calls": event.count // steps
        }
        for event in events[:TOP]
    }  # fmt: skip


def growth(rounds: int) -> dict[str, Any]:
    """Step time of GrassWalk over model sizes, and the exponent of m n r that fits it."""
    layers = {name: Layers.of(name, rank) for name, rank in GROWTH.items()}
    contenders = {name: ours("GrassWalk", of).step for name, of in layers.items()}
    for step in contenders.values():
        step()
    medians = {name: statistics.median(s) for name, s in alternate(contenders, rounds, warm=2).items()}
    points = [(math.log(layers[name].work), math.log(medians[name])) for name in layers]
    slope = statistics.linear_regression(*zip(*points, strict=True)).slope
    return {"step_s": medians, "work": {name: of.work for name, of in layers.items()}, "exponent": slope}


def half_precision(rounds: int) -> dict[str, Any]:
    """bfloat16 weights and gradients against float32."""
    contenders: dict[str, Step] = {}
    for dtype in (torch.float32, torch.bfloat16):
        layers, kind = Layers.of(PRESET, RANK, dtype), str(dtype).removeprefix("torch.")
        contenders[f"GrassWalk {kind}"] = ours("GrassWalk", layers).step
        contenders[f"products {kind}"] = bare_products(layers)
    for step in contenders.values():
        step()
    seconds = alternate(contenders, rounds, warm=2)
    return {name: compare(seconds, f"{name} bfloat16", f"{name} float32") for name in ("GrassWalk", "products")}


def state_sizes() -> dict[str, dict[str, int]]:
    """Bytes of the state of every method, and what its formula says."""
    layers = Layers.of("llama-9m", 32)
    sizes = {}
    for name in METHODS:
        optimizer = ours(name, layers)
        optimizer.step()
        with_state = [tuple(sorted(p.shape)) for p, state in optimizer.state.items() if state]
        expected = sum(formula(name, m, n, layers.rank) for m, n in with_state)
        sizes[name] = {"bytes": state_bytes(optimizer), "formula": expected, "matrices": len(with_state)}
    return sizes


def formula(name: str, m: int, n: int, r: int) -> int:
    """Bytes that a method keeps of a matrix, ``m <= n``, in float32."""
    basis, moments = m * r, 2 * n * r
    numbers = {
        **dict.fromkeys(("GrassWalk", "GrassJump", "SubTrack", "Fira"), basis + moments + 1),
        **dict.fromkeys(("GaLore", "GoLore"), basis + moments),
        "LDAdam": basis + moments + m * n,
        "APOLLO": moments + 1,
        "FRUGAL": moments + 2 * r,
        "OnlineSubspaceDescent": 3 * basis + moments,
        "RSO": moments + n * r,
        "BAdam": 2 * m * n,
    }
    return 4 * numbers[name]


def transient(name: str, interval: int) -> dict[str, float]:
    """Most bytes that one step holds beyond what was there before and after, from the allocator's own record."""
    layers = Layers.of(PRESET, RANK)
    optimizer = ours(name, layers, interval=interval)
    optimizer.step()
    optimizer.step()
    activity = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activity, profile_memory=True) as profile:
        optimizer.step()
    held = most = 0
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    largest = max(G.nbytes for G in layers.gradients)
    return {"bytes": most, "largest_layer_bytes": largest, "ratio": most / largest}


def throughput(rounds: int) -> dict[str, float]:
    """The whole training step, 2,048 tokens, with GrassWalk and with torch's fused AdamW."""
    contenders: dict[str, Step] = {}
    for name in ("GrassWalk", "torch AdamW"):
        model = build(PRESET)
        optimizer = (
            torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
            if name == "torch AdamW"
            else optim.GrassWalk(optim.param_groups(model, rank=RANK), lr=1e-4)
        )

        def step(model: torch.nn.Module = model, optimizer: torch.optim.Optimizer = optimizer) -> None:
            optimizer.zero_grad()
            backward(model, sequences=8, tokens=256)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

        contenders[name] = step
    return compare(alternate(contenders, rounds), "torch AdamW", "GrassWalk")


def targets(results: dict[str, Any]) -> dict[str, tuple[float, str, float]]:
    """What is wanted, at both numbers of threads where time counts."""
    wanted: dict[str, tuple[float, str, float]] = {}
    for threads in ("2 threads", "1 thread"):
        found = results[threads]
        for name in ("GrassWalk", "GrassJump"):
            for other, bound in (("products", 1.6), ("galore-torch", 1.3)):
                ratio = found["steps"]["ratios"][f"{name} / {other}"]["ratio"]
                wanted[f"{name} / {other}, between refreshes, {threads}"] = (ratio, "<=", bound)
            amortised, refresh = found["steps"]["amortised_s"], found["steps"]["refresh_s"]
            ratio = amortised[name] / amortised["galore-torch"]
            wanted[f"{name} / galore-torch, over {INTERVAL} steps, {threads}"] = (ratio, "<=", 1.0)
            wanted[f"galore-torch / {name}, refresh, {threads}"] = (refresh["galore-torch"] / refresh[name], ">=", 30.0)
        for name in ("GaLore", "Fira"):
            ratio = found["steps"]["ratios"][f"{name} / pytorch_optimizer {name}"]["ratio"]
            wanted[f"{name} / pytorch_optimizer's, {threads}"] = (ratio, "<=", 1.0)
        wanted[f"exponent of m n r, {threads}"] = (found["growth"]["exponent"], "<=", 1.05)
        wanted[f"bfloat16 / float32, {threads}"] = (found["half_precision"]["GrassWalk"]["ratio"], "<=", 0.6)
        wanted[f"throughput over fused AdamW, {threads}"] = (found["throughput"]["ratio"], ">=", 0.96)
    off: float = max(abs(size["bytes"] - size["formula"]) for size in results["state_bytes"].values())
    wanted["state bytes off their formula"] = (off, "<=", 0)
    for name, found in results["transient"].items():
        wanted[f"transient memory over the largest layer, {name}"] = (found["ratio"], "<=", 2.0)
    return wanted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=30, help="of every comparison of steps; whole training steps take a third"
    )
    rounds = parser.parse_args().rounds
    results: dict[str, Any] = {"preset": PRESET, "rank": RANK, "update_interval": INTERVAL, "rounds": rounds}
    for threads, name in ((2, "2 threads"), (1, "1 thread")):
        torch.set_num_threads(threads)
        results[name] = {
            "steps": steps(rounds),
            "growth": growth(max(3, rounds // 4)),
            "half_precision": half_precision(rounds),
            "throughput": throughput(max(5, rounds // 3)),
            "profiles": {
                "GrassWalk, between refreshes": profile("GrassWalk", NEVER),
                "GrassWalk, refreshing": profile("GrassWalk", 1),
                "GrassJump, refreshing": profile("GrassJump", 1),
                "GrassWalk, between refreshes, bfloat16": profile("GrassWalk", NEVER, torch.bfloat16),
            },
        }
    results["state_bytes"] = state_sizes()
    results["transient"] = {
        f"{name}, {kind}": transient(name, interval)
        for name in ("GrassWalk", "GrassJump", "SubTrack", "GaLore", "Fira")
        for kind, interval in (("between refreshes", 10**9), ("refreshing", 1))
    }
    publish_result(results, targets(results))


if __name__ == "__main__":
    main()
