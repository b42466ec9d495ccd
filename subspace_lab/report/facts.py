"""What a run is: the head of the report, its settings and its versions."""

from __future__ import annotations

from typing import Any

import numpy as np

from subspace_lab.runs import Run

_KEPT = {
    "full": "the whole matrix",
    "gram": "its Gram matrix",
    "topk": "its leading basis and its singular values",
    "stats": "its singular values",
}


def facts(run: Run) -> list[tuple[str, str]]:
    """Name and value of what a reader wants to know first; what the run does not say is left out.

    Args:
        run: A run that was analysed.

    Returns:
        Pairs of plain text.
    """
    manifest, layers = run.manifest, run.layers
    config = _mapping(manifest.get("config"))
    found = {
        "Model": config.get("preset") or config.get("model"),
        "Task": config.get("task"),
        "Data": _data(config.get("data"), manifest.get("data_hash")),
        "Optimizer": _optimizer(config),
        "Layers": _layers(layers),
        "Captured": _captured(run),
        "Kept of each gradient": _KEPT.get(run.keep.partition(":")[0], "") + f" (keep={run.keep})",
        "Loss": _loss(run),
        "Machine": _machine(_mapping(manifest.get("environment"))),
    }
    return [(name, str(value)) for name, value in found.items() if value]


def settings(run: Run) -> list[tuple[str, str]]:
    """All settings of the run, those of the capture first.

    Args:
        run: A run that was analysed.

    Returns:
        Pairs of plain text.
    """
    parts = {
        "capture": run.manifest["capture"],
        "config": run.manifest.get("config"),
        "seeds": run.manifest.get("seeds"),
    }
    found = [(f"{part}.{name}", value) for part, values in parts.items() for name, value in _mapping(values).items()]
    return [(name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)) for name, value in found]


def packages(run: Run) -> list[tuple[str, str]]:
    """The versions that the gradients were captured with.

    Args:
        run: A run that was analysed.

    Returns:
        Pairs of plain text.
    """
    environment = _mapping(run.manifest.get("environment"))
    versions = {"subspace_lab": run.manifest.get("library_version"), "Python": environment.get("python")}
    return [(name, str(version)) for name, version in {**versions, **_mapping(environment.get("packages"))}.items()]


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _data(name: Any, digest: Any) -> str | None:
    return f"{name or 'unnamed'} (hash {str(digest)[:12]})" if digest else name


def _optimizer(config: dict[str, Any]) -> str | None:
    rate = f", peak learning rate {config['lr']:g}" if isinstance(config.get("lr"), int | float) else ""
    return f"{config['optimizer']}{rate}" if config.get("optimizer") else None


def _layers(layers: Any) -> str:
    if layers.empty:
        return "none"
    num_blocks = int((layers["depth"].drop_duplicates() >= 0).sum())
    blocks = f" in {num_blocks} blocks" if num_blocks else ""
    return f"{len(layers)} matrices of {layers['kind'].nunique()} kinds{blocks}"


def _captured(run: Run) -> str:
    steps = run.steps
    if not steps:
        return "nothing"
    every = run.manifest["capture"].get("every")
    span = f"step {steps[0]}" if len(steps) == 1 else f"{len(steps)} steps from {steps[0]} to {steps[-1]}"
    day = str(run.manifest.get("created", ""))[:10]
    return (f"{span}, every {every}" if every and len(steps) > 1 else span) + (f"; {day}" if day else "")


def _loss(run: Run) -> str | None:
    metrics = run.curves("loss", "eval_loss")
    losses = metrics["loss"].dropna()
    if losses.empty or not np.isfinite(losses).all():
        return None
    text = f"{losses.iloc[0]:.2f} → {losses.iloc[-1]:.2f} in {len(metrics)} steps"
    held_out = metrics["eval_loss"].dropna()
    what = "rows" if _mapping(run.manifest.get("config")).get("task") else "text"
    return text + (f"; {held_out.iloc[-1]:.2f} on held-out {what}" if len(held_out) else "")


def _machine(environment: dict[str, Any]) -> str | None:
    parts = [environment.get("cuda") or environment.get("processor"), environment.get("platform")]
    if environment.get("torch_threads"):
        parts.append(f"{environment['torch_threads']} of {environment.get('cores')} cores")
    return ", ".join(str(part) for part in parts if part) or None
