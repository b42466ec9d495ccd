"""Bytes on disk of one snapshot of a 60M LLaMA's attention and MLP layers, reduction by reduction.

A file is ``8 + header + tensors`` bytes long; the bytes of the tensors are held against the documented formula
(`subspace_lab.capture.reductions`), the header is what is left.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks._llama import LINEARS, backward, build
from benchmarks._measure import publish_result
from subspace_lab import GradientCapture, Run
from subspace_lab.capture.reductions import snapshot_bytes

KEEPS = ("full", "gram", "topk:64", "stats")


def measure(model: object, keep: str, path: Path) -> dict[str, int]:
    with GradientCapture(model, path, keep=keep, layers=LINEARS) as capture:
        capture.step(0)
    (file,) = (path / "snapshots").iterdir()
    size = file.stat().st_size
    with file.open("rb") as opened:
        header = int.from_bytes(opened.read(8), "little")
    layers = Run.open(path).manifest["layers"]
    return {
        "layers": len(layers),
        "file_bytes": size,
        "header_bytes": header,
        "tensor_bytes": size - 8 - header,
        "formula_bytes": snapshot_bytes(layers, keep),
    }


def main() -> None:
    model = build("llama-60m")
    backward(model, sequences=2, tokens=64)
    with tempfile.TemporaryDirectory() as directory:
        results = {keep: measure(model, keep, Path(directory, str(n))) for n, keep in enumerate(KEEPS)}
    for row in results.values():
        row["of_full"] = row["file_bytes"] / results["full"]["file_bytes"]
    off = sum(abs(row["tensor_bytes"] - row["formula_bytes"]) for row in results.values())
    publish_result(results, {"bytes off the formula": (off, "<=", 0)})
    for keep, row in results.items():
        print(f"{keep:8} {row['file_bytes']:>12,} bytes, {row['of_full']:.4f} of full")


if __name__ == "__main__":
    main()
