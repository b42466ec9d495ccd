"""What was measured of the loss, and on which text: the lines above its figures."""

from __future__ import annotations

from typing import Any

from subspace_lab._text import count, percent
from subspace_lab.runs import Run
from subspace_lab.runs.tables import TABLES


def measured_on(run: Run) -> str:
    """Checkpoints, sequences and what came out for the whole model, in a few sentences.

    Args:
        run: A run whose loss was measured at its checkpoints.

    Returns:
        Plain text.
    """
    summary, values, noise = (_of_model(run, name) for name in ("hessian_summary", "hessian", "noise"))
    steps = sorted({int(step) for table in (summary, noise) if table is not None for step in table["step"]})
    named = run.manifest.get("evaluation")
    held_out = "held-out " if isinstance(named, dict) and named.get("held_out") else ""
    parts = [
        f"Measured at {count(len(steps), 'checkpoint')} (after {', '.join(map(str, steps))} steps) on the {held_out}"
        "sequences that the manifest names, in full precision and without dropout."
    ]
    if summary is not None and values is not None:
        parts.append(_hessian(summary, values))
    if noise is not None:
        parts.append(_noise(noise))
    return " ".join(parts)


def _hessian(summary: Any, values: Any) -> str:
    last = summary.iloc[-1]
    top = values[(values["step"] == last["step"]) & (values["index"] == 0)]["eigenvalue"].max()
    missed = int((~values["converged"]).sum())
    return (
        f"On {count(int(last['sequences']), 'sequence')} the largest eigenvalue of the Hessian of the whole model is "
        f"{top:.3g} at the last checkpoint, its trace {last['trace']:.3g} ± {last['trace_se']:.2g}, and "
        f"{percent(last['chi'])} of the gradient's norm lies in the space of the {last['k']} leading eigenvectors "
        f"(a random direction: {percent(last['null_chi'])})."
        + (f" {count(missed, 'eigenvalue')} of the whole model did not converge." if missed else "")
    )


def _noise(noise: Any) -> str:
    last = noise[noise["step"] == noise["step"].max()].set_index("part")
    scale, bulk = last["noise_scale"].get("all", float("nan")), last.loc["bulk"] if "bulk" in last.index else None
    text = "no signal is significant" if scale != scale else f"the gradient noise scale is {scale:.3g} sequences"
    text = f"At the last checkpoint {text}"
    if bulk is None or bulk["signal_share"] != bulk["signal_share"]:
        return text + "."
    is_significant = abs(bulk["signal_share"]) > 2 * bulk["signal_share_se"]
    doubt = "" if is_significant else ", which does not differ significantly from zero"
    return (
        f"{text}; of the bulk's energy in a gradient of {count(int(bulk['batch_size']), 'sequence')} "
        f"{max(0.0, bulk['signal_share']):.0%} ± {bulk['signal_share_se']:.0%} is signal{doubt}."
    )


def _of_model(run: Run, name: str) -> Any:
    if not run.has_table(name):
        return None
    table = run.table(name, TABLES[name])
    rows = table[table["layer"] == "model"].sort_values("step", kind="stable")
    return None if rows.empty else rows
