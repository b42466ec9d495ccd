"""Made-up tables of the loss at three checkpoints, for the runs of the figures' tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from subspace_lab.runs import Run

STEPS = (50, 100, 150)
K = 4


def with_loss(run: Run, path: Path, *, steps: tuple[int, ...] = STEPS, missed: bool = True) -> Run:
    """A copy of a run with the tables that `analyze --hessian --noise` leaves; some eigenvalues did not converge."""
    shutil.copytree(run.path, path)
    copy = Run.open(path, write=True)
    blocks = [{"layer": "model", "depth": -1, "kind": "model"}, *run.manifest["layers"]]
    rows = [(step, block) for step in steps for block in blocks]
    draw = np.random.default_rng(3)
    place = pd.DataFrame([
        {"step": step, "layer": block.get("layer", block.get("name")), "depth": block["depth"], "kind": block["kind"]}
        for step, block in rows
    ])  # fmt: skip
    place["layer"] = place["layer"].astype("category")
    place["kind"] = place["kind"].astype("category")
    num = len(place)
    eigenvalues = place.loc[place.index.repeat(K)].reset_index(drop=True)
    eigenvalues["index"] = np.tile(np.arange(K), num).astype(np.int16)
    eigenvalues["eigenvalue"] = (40 / (1 + eigenvalues["index"]) * draw.uniform(0.5, 1, num * K)).astype(np.float32)
    eigenvalues["residual"] = np.float32(0.01)
    eigenvalues["converged"] = (eigenvalues["index"] < K - 1) | (not missed)
    summary = place.assign(
        k=np.int16(K), sequences=np.int32(8), trace=300 * draw.uniform(0.5, 1, num), trace_se=20.0,
        chi=draw.uniform(0.2, 0.6, num), null_chi=0.01, rayleigh_core=draw.uniform(1, 3, num),
        rayleigh_bulk=draw.uniform(-0.5, 1, num), overlap=draw.uniform(0.5, 0.9, num), null_overlap=0.25,
    )  # fmt: skip
    noise = pd.concat([place.assign(part=part) for part in ("all", "core", "bulk")], ignore_index=True)
    noise = noise.assign(
        batch_size=np.int32(16), signal_share=draw.uniform(-0.05, 0.9, 3 * num), signal_share_se=0.05,
        noise_scale=draw.uniform(10, 60, 3 * num), noise_scale_se=4.0,
    )  # fmt: skip
    noise["part"] = noise["part"].astype("category")
    for name, table in (("hessian", eigenvalues), ("hessian_summary", summary), ("noise", noise)):
        copy.write_table(name, table)
    return Run.open(path)
