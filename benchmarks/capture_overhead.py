"""Training time with capture (``keep="gram"``, every 10 steps) over training without, in alternating blocks of 10."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from benchmarks._llama import backward, build
from benchmarks._measure import alternate, compare, publish_result
from subspace_lab import GradientCapture

PRESET, SEQUENCES, TOKENS, EVERY = "llama-7m", 8, 128, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    model = build(PRESET)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    taken = 0

    def block(capture: GradientCapture | None) -> None:
        nonlocal taken
        for _ in range(EVERY):
            loss = backward(model, SEQUENCES, TOKENS)
            if capture is not None:
                capture.log(loss=loss.item())
                capture.step(taken)
                taken += 1
            optimizer.step()
            optimizer.zero_grad()

    with tempfile.TemporaryDirectory() as directory:
        with GradientCapture(model, Path(directory, "run"), every=EVERY, keep="gram") as capture:
            work = {"with_capture": lambda: block(capture), "without": lambda: block(None)}
            seconds = alternate(work, arguments.repeats)
        snapshots = len(list(Path(directory, "run", "snapshots").iterdir()))
    ratio = compare(seconds, "with_capture", "without")
    results = {
        "model": {"preset": PRESET, "batch": [SEQUENCES, TOKENS], "optimizer": "AdamW, fused"},
        "steps_per_block": EVERY,
        "snapshots_per_block": snapshots / (arguments.repeats + 1),
        **ratio,
    }
    publish_result(results, {"time with capture over without": (ratio["ratio"], "<=", 1.05)})


if __name__ == "__main__":
    main()
