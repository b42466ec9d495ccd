"""Run directories with known gradients, written without any training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from subspace_lab.numerics import Side, default_side, flatten, gram, pack_symmetric
from subspace_lab.runs import Run, RunWriter

Gradients = Mapping[str, Tensor]


def layer_row(name: str, gradient: Tensor, residual_side: str | None = None, side: Side | None = None) -> dict:
    """A row of the layer table, the depth being the first number in the name."""
    rows, cols = flatten(gradient).shape
    numbers = [int(part) for part in name.split(".") if part.isdecimal()]
    return {
        "name": name, "depth": numbers[0] if numbers else -1, "kind": name.split(".")[-2], "rows": rows, "cols": cols,
        "side": side or default_side(rows, cols), "shape": list(gradient.shape), "residual_side": residual_side,
    }  # fmt: skip


def reduced(name: str, gradient: Tensor, keep: str, side: Side | None = None) -> dict[str, Tensor]:
    """The parts that a reduction keeps, by numpy's SVD where one is needed."""
    G = flatten(gradient)
    side = side or default_side(*G.shape)
    if keep == "full":
        return {f"gradient:{name}": gradient}
    if keep == "gram":
        sides = ("left", "right") if G.shape[0] == G.shape[1] else (side,)
        return {f"gram_{each}:{name}": pack_symmetric(gram(G, each)) for each in sides}
    U, sigma, _ = np.linalg.svd((G if side == "left" else G.T).double().numpy(), full_matrices=False)
    parts = {f"singular_values:{name}": torch.tensor(sigma.astype(np.float32))}
    if keep.startswith("topk"):
        parts[f"basis:{name}"] = torch.tensor(U[:, : int(keep.split(":")[1])].astype(np.float32).copy())
    return parts


def write_run(
    path: Path,
    gradients: Callable[[int], Gradients],
    *,
    steps: int = 6,
    every: int = 10,
    keep: str = "gram",
    residual_sides: Mapping[str, str] | None = None,
    side: Side | None = None,
) -> Run:
    """A run whose gradients at each captured step are what ``gradients(step)`` returns, NaN ones recorded as such."""
    rows = [layer_row(name, G, (residual_sides or {}).get(name), side) for name, G in gradients(0).items()]
    writer = RunWriter(path, layers=rows, capture={"every": every, "keep": keep, "layers": None})
    for step in range(0, steps * every, every):
        tensors: dict[str, Tensor] = {}
        nonfinite = {}
        for name, G in gradients(step).items():
            bad = int((~G.isfinite()).sum())
            if bad:
                nonfinite[name] = bad
            else:
                tensors |= reduced(name, G, keep, side)
        writer.snapshot(step, tensors, {"nonfinite": nonfinite, "missing": [], "clipped": "false", "loss": 5.0})
        writer.log({"step": step, "loss": 5.0 - step / 100, "lr": 1e-3})
    writer.close()
    return Run.open(path, write=True)


def noise(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> Callable[[int], dict[str, Tensor]]:
    """Independent Gaussian gradients, the same whenever a step is asked for again."""

    def at(step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(1000 * seed + step)
        return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}

    return at
