"""What `low_rank_all_reduce` saves: bytes on the wire and time of a backward, two gloo processes against plain DDP.

Both models are trained in turn by the same processes, on the same batches, and gloo's loopback is the wire, which costs
next to nothing: what the two products of the hook take is more than it saves there, and is told in seconds per gigabyte
that a slower wire must take longer.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from benchmarks._measure import compare, publish_result, require_one_thread
from subspace_lab import optim
from subspace_lab.training import TrainConfig
from subspace_lab.training.models import build_model

WORLD, INTERVAL = 2, 1000
RANKS = (64, 128)
VOCABULARY = 1000  # few full-rank parameters beside the matrices


def build(preset: str) -> torch.nn.Module:
    """The model with a small vocabulary."""
    return build_model(TrainConfig(preset=preset, vocab_size=VOCABULARY).resolved())


def count_bytes() -> list[int]:
    """From now on, the bytes of every tensor that this process gives to an all-reduce."""
    seen: list[int] = []
    all_reduce = distributed.all_reduce

    def counted(tensor: torch.Tensor, *arguments: Any, **settings: Any) -> Any:
        seen.append(tensor.nbytes)
        return all_reduce(tensor, *arguments, **settings)

    distributed.all_reduce = counted
    return seen


def worker(process: int, directory: str, preset: str, tokens: int, repeats: int) -> None:
    """Times and bytes of one process, written to a file."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{directory}/meeting", rank=process, world_size=WORLD)
    counted = count_bytes()
    told = {str(rank): measured(preset, rank, tokens, repeats, counted) for rank in RANKS}
    Path(directory, f"{process}.json").write_text(json.dumps(told))
    distributed.barrier()
    os._exit(0)  # gloo's threads may drop the last tensor while the interpreter shuts down, which aborts the process


def measured(preset: str, rank: int, tokens: int, repeats: int, counted: list[int]) -> dict[str, Any]:
    """Seconds of forward and backward, under plain DDP and with the hook, in turn."""
    models, seconds, sizes = {}, {"whole": list[float](), "projected": list[float]()}, {}
    for name in seconds:
        model = DistributedDataParallel(build(preset))
        optimizer = optim.SubspaceAdam(
            optim.param_groups(model.module, rank=rank), lr=1e-3, rule="jump", recovery="none", update_interval=INTERVAL
        )
        made = optim.low_rank_all_reduce(model, optimizer)
        if name == "whole":
            made.close()  # what DDP does, through the same counter
        models[name] = (model, optimizer)
    batch = torch.randint(0, VOCABULARY, (1, tokens), generator=torch.Generator().manual_seed(distributed.get_rank()))
    for round_ in range(2 + repeats):  # the first chooses the subspaces, in the second DDP arranges its buckets anew
        for name, (model, optimizer) in models.items():
            distributed.barrier()
            counted.clear()
            begin = time.perf_counter()
            model(input_ids=batch, labels=batch).loss.backward()
            if round_ >= 2:
                seconds[name].append(time.perf_counter() - begin)
                sizes[name] = sum(counted)
            optimizer.step()
            optimizer.zero_grad()
    return {"bytes": sizes, "seconds": seconds}


def main() -> None:
    """Run it, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="llama-60m")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    require_one_thread()
    with tempfile.TemporaryDirectory() as directory:
        spawn(worker, (directory, chosen.preset, chosen.tokens, chosen.repeats), nprocs=WORLD)
        told = [json.loads(Path(directory, f"{process}.json").read_text()) for process in range(WORLD)]
    model = build(chosen.preset)
    results: dict[str, Any] = {"preset": chosen.preset, "processes": WORLD, "tokens": chosen.tokens, "backend": "gloo"}
    targets: dict[str, tuple[float, str, float]] = {}
    worst = 0.0
    for rank in map(str, RANKS):
        groups = optim.param_groups(model, rank=int(rank))
        matrices = groups[0]["params"]
        rest = sum(p.nbytes for p in groups[1]["params"])
        wanted = rest + sum(min(int(rank), min(p.shape)) * max(p.shape) * p.itemsize for p in matrices)
        found = told[0][rank]["bytes"]
        worst = max(worst, abs(found["projected"] / wanted - 1))
        share = (found["projected"] - rest) / sum(p.nbytes for p in matrices)
        backward = compare(told[0][rank]["seconds"], "whole", "projected")
        saved, more = found["whole"] - found["projected"], backward["projected_s"] - backward["whole_s"]
        results[f"rank {rank}"] = {
            "bytes_whole": found["whole"],
            "bytes_projected": found["projected"],
            "bytes_ratio_of_matrices": share,
            "forward and backward": backward,
            "pays on wires slower than loopback by, s per GB": max(0.0, more) / (saved / 1e9),
        }
        smallest = min(min(p.shape) for p in matrices)
        targets[f"rank {rank}: bytes of matrices, of plain DDP's"] = (share, "<=", int(rank) / smallest)
        targets[f"rank {rank}: forward and backward over loopback, times faster"] = (backward["ratio"], ">=", 1.0)
    publish_result(results, {"bytes off the formula, relative": (worst, "<=", 0.0), **targets})


if __name__ == "__main__":
    main()
