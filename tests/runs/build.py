"""Small runs for the tests, made of random gradients, and disks that are full or read-only."""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from subspace_lab.numerics import default_side, gram, pack_symmetric
from subspace_lab.runs import RunError, RunWriter

WIDE, TALL, SQUARE, CONV = "blocks.0.up.weight", "blocks.0.down.weight", "blocks.0.o.weight", "stem.weight"
SHAPES = {WIDE: (6, 10), TALL: (10, 6), SQUARE: (5, 5), CONV: (4, 2, 3, 3)}


def row(name: str, shape: tuple[int, ...], **changes) -> dict:
    """A row of the layer table."""
    rows, cols = shape[0], math.prod(shape[1:])
    side = default_side(rows, cols)
    table = {"name": name, "depth": 0, "kind": "o", "rows": rows, "cols": cols, "side": side, "shape": shape}
    return {**table, "residual_side": None, **changes}


def gradients(step: int, shapes: dict[str, tuple[int, ...]] = SHAPES) -> dict[str, Tensor]:
    """The gradients of a step, the same whenever they are asked for."""
    generator = torch.Generator().manual_seed(step)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def reduced(keep: str, gradient: Tensor, name: str) -> dict[str, Tensor]:
    """The tensors of a layer in a snapshot."""
    G = gradient.flatten(1)
    side = default_side(*G.shape)
    if keep == "full":
        return {f"gradient:{name}": gradient}
    if keep == "gram":
        sides = ("left", "right") if G.shape[0] == G.shape[1] else (side,)
        return {f"gram_{side}:{name}": pack_symmetric(gram(G, side)) for side in sides}
    U, sigma, _ = torch.linalg.svd(G if side == "left" else G.mT, full_matrices=False)
    kept = {f"singular_values:{name}": sigma}
    return kept if keep == "stats" else {**kept, f"basis:{name}": U[:, : int(keep[5:])].contiguous()}


def tensors(step: int, keep: str = "full", shapes: dict[str, tuple[int, ...]] = SHAPES) -> dict[str, Tensor]:
    """All tensors of a snapshot."""
    parts = (reduced(keep, gradient, name) for name, gradient in gradients(step, shapes).items())
    return {name: tensor for part in parts for name, tensor in part.items()}


def writer(path: Path, keep: str = "full", shapes: dict[str, tuple[int, ...]] = SHAPES, **options) -> RunWriter:
    """The writer of a run with these layers."""
    layers = [row(name, shape) for name, shape in shapes.items()]
    return RunWriter(path, layers=layers, capture={"every": 10, "keep": keep, "layers": ("*",)}, **options)


def make_run(path: Path, keep: str = "full", steps: tuple[int, ...] = (0, 10), shapes=SHAPES) -> Path:
    """A finished run."""
    run = writer(path, keep, shapes)
    for step in steps:
        run.log({"step": step, "loss": 2.0 - step / 100})
        run.snapshot(step, tensors(step, keep, shapes), {"loss": 2.0 - step / 100, "nonfinite": {}, "missing": []})
    run.close()
    return path


def contents(path: Path) -> dict[str, bytes]:
    """All files below a directory with their bytes."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


@contextlib.contextmanager
def refuses(*words: str):
    """Expect a RunError of one line with these words."""
    with pytest.raises(RunError) as caught:
        yield
    line = str(caught.value)
    assert line.isprintable(), line
    assert ";" in line or "there is no" in line or "had" in line, f"says not what to do: {line}"
    for word in words:
        assert word in line


@contextlib.contextmanager
def mounted(path: Path, options: str):
    """A small file system in memory; only root can mount one."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system; the same faults are simulated in other tests")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def remount(path: Path, options: str) -> None:
    """Change the options of a mounted file system."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(path)], check=True)
