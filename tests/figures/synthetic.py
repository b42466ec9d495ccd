"""Runs with made-up tables that look like those of a small LLaMA: consistent with each other, and quick to make.

One energy profile per (step, layer), a power law mixed with the spectrum of noise, is where everything else comes
from, so that the tables of a run agree as those of an analysis do.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from subspace_lab.numerics import default_side, null_isotropic, null_noise, null_spectrum, null_tangent
from subspace_lab.runs import Run, RunWriter

KINDS = {
    "q_proj": (256, 256),
    "k_proj": (256, 256),
    "v_proj": (256, 256),
    "o_proj": (256, 256),
    "gate_proj": (688, 256),
    "up_proj": (688, 256),
    "down_proj": (256, 688),
}
LAGS = (1, 2, 4, 8, 16)
STEPS = tuple(range(0, 200, 10))
PLACE = ("step", "layer", "depth", "kind")
COLUMNS = {
    "energy": (*PLACE, "basis", "basis_step", "lag_steps", "rank", "m", "n", "ratio", "fraction", "null_isotropic",
               "null_noise"),
    "spectrum": (*PLACE, "index", "singular_value"),
    "spectrum_summary": (*PLACE, "m", "n", "frobenius_norm", "stable_rank", "effective_rank", "participation_ratio",
                         "nuclear_rank"),
    "spectrum_null": ("m", "n", "index", "singular_value"),
    "angles": ("step", "reference_step", "layer", "reference_layer", "comparison", "side", "depth", "kind", "rank",
               "mean_deg", "max_deg", "overlap", "chordal", "null_overlap"),
    "curvature": ("step", "basis_step", "lag_steps", "layer", "depth", "kind", "rank", "index", "singular_value",
                  "normalized", "null_noise"),
}  # fmt: skip


def layer_row(name: str, depth: int, kind: str, shape: tuple[int, int]) -> dict[str, object]:
    side = default_side(*shape)
    return {"name": name, "depth": depth, "kind": kind, "rows": shape[0], "cols": shape[1], "side": side,
            "shape": list(shape), "residual_side": "left" if kind in {"o_proj", "down_proj"} else "right"}  # fmt: skip


def transformer(depths: int = 8, kinds: dict[str, tuple[int, int]] = KINDS) -> list[dict[str, object]]:
    def name(depth, kind):
        part = "mlp" if kind in {"gate_proj", "up_proj", "down_proj"} else "self_attn"
        return f"model.layers.{depth}.{part}.{kind}.weight"

    return [
        layer_row(name(depth, kind), depth, kind, shape) for depth in range(depths) for kind, shape in kinds.items()
    ]


def make_run(path: Path, *, layers=None, steps=STEPS, keep="gram", contexts=None, eval_every=50, **about) -> Run:
    """A finished run without snapshots' contents, its metrics, and the tables that `keep` allows."""
    layers = transformer() if layers is None else layers
    capture = {"every": 10, "keep": keep, "layers": ["*.self_attn.*", "*.mlp.*"]}
    writer = RunWriter(path, layers=layers, capture=capture, about=about)
    for step in steps:
        writer.snapshot(step, {"singular_values:none": torch.zeros(1)}, (contexts or {}).get(step, {}))
    rng = np.random.default_rng(5)
    for step in range(max(steps, default=-1) + 10):
        loss = 3.1 + 5.2 * np.exp(-step / 45) + 0.08 * rng.standard_normal()
        row = {"step": step, "loss": float(loss), "lr": 1e-3, "grad_norm": 0.7, "tokens": 8192, "seconds": 0.4}
        if step % eval_every == eval_every - 1:
            row["eval_loss"] = float(loss) + 0.1
        writer.log(row)
    writer.close()
    run = Run.open(path, write=True)
    for name, table in tables(layers, list(steps), keep).items():
        run.write_table(name, table)
    return Run.open(path)


def oriented(layer) -> tuple[int, int]:
    rows, cols = int(layer["rows"]), int(layer["cols"])
    return (rows, cols) if layer["side"] == "left" else (cols, rows)


def energies(layer, progress: float, wobble: float) -> np.ndarray:
    """Energy shares (min(m, n),) of the singular directions, descending."""
    m, n = oriented(layer)
    noise = np.square(null_spectrum(m, n))
    offset = (sum(map(ord, str(layer["kind"]))) % 7) / 30
    share = np.clip(0.95 - 0.35 * progress - 0.02 * max(int(layer["depth"]), 0) - offset + wobble, 0.05, 1)
    law = np.arange(1, len(noise) + 1) ** -1.3
    return share * law / law.sum() + (1 - share) * noise


def tables(layers, steps: list[int], keep: str) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(11)
    last = max(steps, default=0) or 1
    profile = {
        (step, layer["name"]): energies(layer, step / last, 0.02 * rng.standard_normal())
        for step in steps
        for layer in layers
    }
    shapes = sorted({oriented(layer) for layer in layers})
    limit = int(keep.partition(":")[2] or 10**9)
    rank = int(np.median([oriented(layer)[0] for layer in layers])) // 4
    ranks = [r for r in (rank // 16, rank // 8, rank // 4, rank // 2, rank, 2 * rank) if 0 < r <= limit]
    made = {
        "energy": energy(layers, steps, profile, ranks, stale=keep in {"full", "gram"}),
        "spectrum": spectrum(layers, steps, profile),
        "spectrum_summary": summary(layers, steps, profile),
        "spectrum_null": pd.concat(
            pd.DataFrame({"m": m, "n": n, "index": range(min(m, n)), "singular_value": null_spectrum(m, n)})
            for m, n in shapes
        ),
    }
    made["angles"] = angles(layers, steps if keep != "stats" else [], rng, rank)
    made["curvature"] = curvature(layers, steps if keep in {"full", "gram"} else [], rng, rank)
    return {name: compact(table.reindex(columns=COLUMNS[name])) for name, table in made.items()}


def compact(table: pd.DataFrame) -> pd.DataFrame:
    for column in table.columns:
        if table[column].dtype == np.float64:
            table[column] = table[column].astype("float32")
        elif not pd.api.types.is_numeric_dtype(table[column]):
            table[column] = table[column].astype("category")
    return table.reset_index(drop=True)


def named(step: int, layer) -> dict[str, object]:
    return {"step": step, "layer": layer["name"], "depth": layer["depth"], "kind": layer["kind"]}


def energy(layers, steps, profile, ranks, *, stale: bool) -> pd.DataFrame:
    rows = []
    for position, step in enumerate(steps):
        for layer in layers:
            m, n = oriented(layer)
            own = profile[step, layer["name"]].cumsum()
            for lag in (0, *LAGS) if stale else (0,):
                if lag > position:
                    continue
                before = steps[position - lag]
                for rank in ranks:
                    r = min(rank, m)
                    kept = 0.75 * (step - before + 5) ** -0.25 if lag else 1
                    fraction = r / m + (own[r - 1] - r / m) * kept
                    rows.append({**named(step, layer), "basis": "stale" if lag else "own", "basis_step": before,
                                 "lag_steps": step - before, "rank": rank, "m": m, "n": n, "ratio": fraction**0.5,
                                 "fraction": fraction, "null_isotropic": null_isotropic(rank, m),
                                 "null_noise": null_noise(rank, m, n)})  # fmt: skip
    return pd.DataFrame(rows)


def spectrum(layers, steps, profile) -> pd.DataFrame:
    parts = [
        pd.DataFrame({**named(step, layer), "index": range(len(e)), "singular_value": 0.1 * np.sqrt(e)})
        for step in steps
        for layer in layers
        for e in [profile[step, layer["name"]]]
    ]
    return pd.concat(parts) if parts else pd.DataFrame()


def summary(layers, steps, profile) -> pd.DataFrame:
    rows = []
    for step in steps:
        for layer in layers:
            e = profile[step, layer["name"]]
            p = np.sqrt(e) / np.sqrt(e).sum()
            m, n = oriented(layer)
            rows.append({**named(step, layer), "m": m, "n": n, "frobenius_norm": 0.1, "stable_rank": 1 / e.max(),
                         "effective_rank": float(np.exp(-(p * np.log(p)).sum())),
                         "participation_ratio": 1 / float((e**2).sum()),
                         "nuclear_rank": float(np.sqrt(e).sum() ** 2)})  # fmt: skip
    return pd.DataFrame(rows)


def angles(layers, steps, rng, rank) -> pd.DataFrame:
    rows = []
    by_place = {(layer["kind"], layer["depth"]): layer for layer in layers}
    for position, step in enumerate(steps):
        for layer in layers:
            m = oriented(layer)[0]
            pairs = [("previous", steps[position - 1], layer), ("first", steps[0], layer)] if position else []
            if layer["depth"] >= 0 and (above := by_place.get((layer["kind"], layer["depth"] - 1))):
                pairs.append(("depth", step, above))
            for comparison, reference, other in pairs:
                null, gap = min(rank, m) / m, (step - reference) / 60
                kept = 0.45 * np.exp(-gap) if comparison != "depth" else 0.3 * (1 - step / 400)
                shared = null + (1 - null) * float(np.clip(kept + 0.03 * rng.standard_normal(), 0, 1))
                rows.append({"step": step, "reference_step": reference, "layer": layer["name"],
                             "reference_layer": other["name"], "comparison": comparison, "side": layer["side"],
                             "depth": layer["depth"], "kind": layer["kind"], "rank": rank,
                             "mean_deg": float(np.degrees(np.arccos(np.sqrt(shared)))), "max_deg": 89.0,
                             "overlap": shared, "chordal": (rank * (1 - shared)) ** 0.5,
                             "null_overlap": null})  # fmt: skip
    return pd.DataFrame(rows)


def curvature(layers, steps, rng, rank) -> pd.DataFrame:
    rows = []
    for position, step in enumerate(steps[1:], start=1):
        for layer in layers:
            level = 0.06 * np.exp(-step / 150) * (3 if layer["kind"] == "down_proj" else 1)
            values = level * np.arange(1, 21) ** -0.6 * np.exp(0.1 * rng.standard_normal(20))
            null = null_tangent(rank, *oriented(layer), 20)
            rows += [
                {**named(step, layer), "basis_step": steps[position - 1], "lag_steps": step - steps[position - 1],
                 "rank": rank, "index": index, "singular_value": 0.01 * value, "normalized": value,
                 "null_noise": null[index]}
                for index, value in enumerate(np.sort(values)[::-1][: len(null)])
            ]  # fmt: skip
    return pd.DataFrame(rows)


def edit_manifest(run: Run, **changes) -> Run:
    """The run with fields of its manifest changed on disk."""
    manifest = {**run.manifest, **changes}
    (run.path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return Run.open(run.path)
