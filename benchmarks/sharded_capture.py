"""Work of a capture (``keep="gram"``) of a model under FSDP2 in k processes, over that in one.

Processes may share a core, so that what is compared is the processor time of the busiest of them, the transport of
what they send each other included, which gloo does on the processor. Gradients are random.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from benchmarks._llama import LINEARS, build
from benchmarks._measure import publish_result
from subspace_lab import GradientCapture

PRESET = "llama-60m"
PROCESSES = (1, 2, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--worker", help="a file for the results of one number of processes")
    arguments = parser.parse_args()
    if arguments.worker:
        measure(Path(arguments.worker), arguments.repeats)
        return
    with tempfile.TemporaryDirectory() as directory:
        by_size = {size: launch(Path(directory), size, arguments.repeats) for size in PROCESSES}
    one = by_size[1]["cpu_s"]
    results = {
        "model": {"preset": PRESET, "sharding": "FSDP2", "backend": "gloo"},
        "by_processes": {str(size): found for size, found in by_size.items()},
    }
    targets = {
        f"work of the busiest of {size} processes over that of one": (found["cpu_s"] / one, "<=", 1.0)
        for size, found in by_size.items()
        if size > 1
    }
    publish_result(results, targets)


def launch(directory: Path, size: int, repeats: int) -> dict[str, Any]:
    """Measure so many processes, started by torchrun."""
    out = directory / f"{size}.json"
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
    mine = ["-m", "benchmarks.sharded_capture", f"--repeats={repeats}", f"--worker={out}"]
    subprocess.run([sys.executable, *torchrun, *mine], check=True)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def measure(out: Path, repeats: int) -> None:
    """In each process: captures of the same gradients; the first one writes the median of the busiest."""
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    model = build(PRESET)
    for block in model.model.layers:
        fully_shard(block)
    fully_shard(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter).normal_()
    seconds = []
    with GradientCapture(model, out.with_suffix(""), every=1, keep="gram", layers=LINEARS) as capture:
        for step in range(repeats + 1):
            distributed.barrier()
            begin = time.process_time()
            capture.step(step)
            mine = torch.tensor(time.process_time() - begin)
            distributed.all_reduce(mine, distributed.ReduceOp.MAX)
            seconds.append(mine.item())
    if rank == 0:
        out.write_text(json.dumps({"cpu_s": statistics.median(seconds[1:]), "all_cpu_s": seconds[1:]}))
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
