"""Peak memory of ``analyze`` on 100 snapshots of a 60M LLaMA over 10 and over 20, beyond the tables that it returns.

Ten snapshots do not fill the 16 captures that the longest lag looks back; twenty do.

Every analysis runs in a process of its own, on Gram matrices of random matrices with a decaying spectrum. Peak is the
high-water mark of the resident set, files that are mapped included; it needs 5 GB of disk for a while.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks._llama import LINEARS, build
from benchmarks._measure import publish_result
from subspace_lab import GradientCapture, Run

PRESET = "llama-60m"


def make_run(path: Path, snapshots: int) -> None:
    """A run whose gradients are random and change from step to step."""
    model = build(PRESET)
    with GradientCapture(model, path, every=10, keep="gram", layers=LINEARS) as capture:
        generator = torch.Generator().manual_seed(0)
        fixed = {p: torch.randn(p.shape, generator=generator) for name, p in model.named_parameters() if "proj" in name}
        for number in range(snapshots):
            for p, G in fixed.items():
                shift = torch.roll(G, number + 1, 0) * torch.arange(1, G.shape[1] + 1) ** -0.5
                p.grad = G * torch.arange(1, G.shape[1] + 1) ** -0.5 + 0.3 * shift
            capture.step(10 * number)


def peak_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return 1024 * int(line.split()[1])
    raise SystemExit("the high-water mark is read from /proc/self/status, which is Linux")


def analyze_alone(path: str) -> None:
    """What the process of its own does: analyse, and print what it took."""
    from subspace_lab.analysis import analyze

    before = peak_bytes()
    tables = analyze(Run.open(path))
    table_bytes = sum(int(table.memory_usage(deep=True).sum()) for table in tables.values())
    print(json.dumps({"import_bytes": before, "peak_bytes": peak_bytes(), "table_bytes": table_bytes}))


def measure(directory: Path, snapshots: int) -> dict[str, int]:
    path = directory / str(snapshots)
    make_run(path, snapshots)
    words = [sys.executable, "-m", "benchmarks.analyze_memory", "--analyze", str(path)]
    found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    return {**found, "beyond_tables_bytes": found["peak_bytes"] - found["table_bytes"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--snapshots", type=int, nargs=3, default=(10, 20, 100), metavar=("FEW", "FULL", "MANY"))
    parser.add_argument("--analyze", metavar="RUN_DIR", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.analyze:
        analyze_alone(arguments.analyze)
        return
    few, full, many = arguments.snapshots
    with tempfile.TemporaryDirectory() as directory:
        results = {str(snapshots): measure(Path(directory), snapshots) for snapshots in (few, full, many)}
    beyond = {snapshots: float(found["beyond_tables_bytes"]) for snapshots, found in results.items()}
    over_few, over_full = beyond[str(many)] / beyond[str(few)], beyond[str(many)] / beyond[str(full)]
    results = {"preset": PRESET, "layers": LINEARS, "keep": "gram", "snapshots": results}
    publish_result(
        results | {"many_over_few": over_few, "many_over_full": over_full},
        {
            "peak beyond the tables, 100 snapshots over 10": (over_few, "<=", 1.1),
            "peak beyond the tables, 100 snapshots over 20, which fill the longest lag": (over_full, "<=", 1.1),
        },
    )


if __name__ == "__main__":
    main()
