"""The tables of measurements in the pages, from ``results/benchmarks/*.json``: run ``python -m benchmarks.pages``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from benchmarks._measure import RESULTS, ROOT
from subspace_lab.report.pages import fill_file

MARK = "benchmarks"
ABOUT = {
    "analyze_memory": "memory of `analyze`, 60M LLaMA",
    "angles": "principal angles, 512 × 128, float64",
    "attribution_alignment": "few labelled rows",
    "capture_overhead": 'training with `keep="gram"`, every 10 steps',
    "hessian": "5 leading Hessian eigenvalues of a 1M LLaMA to a residual of 1e-3",
    "faults": "faults in files, signals, full disks",
    "help_time": "`subspace-lab --help`",
    "low_rank_all_reduce": "DDP of two processes, 60M LLaMA",
    "optimizer_step": "one step",
    "sharded_capture": 'capture of a 60M LLaMA under FSDP2, `keep="gram"`, gloo',
    "snapshot_bytes": "snapshot files, 60M LLaMA, all reductions",
    "spectra": "singular spectra of a 60M LLaMA's gradients against `torch.linalg.svdvals`",
    "training_memory": "training a 60M LLaMA, the worst of 13 methods",
}
PAGES = {
    "README.md": ("analyze_memory", "angles", "capture_overhead", "help_time", "hessian", "snapshot_bytes", "spectra"),
    "docs/how-to/align-attributions.md": ("attribution_alignment",),
    "docs/concepts/optimizers.md": ("optimizer_step",),
    "docs/how-to/compare-optimizers.md": ("training_memory",),
    "docs/how-to/ddp-with-less-traffic.md": ("low_rank_all_reduce",),
    "docs/concepts/what-a-run-survives.md": ("faults",),
    "docs/how-to/several-processes.md": ("sharded_capture",),
}
DEPARTURES = "departures"  # mark of the table of departures of released code
DEPARTURES_PAGE = "docs/concepts/optimizers.md"
HEAD = """\
| what | measured (quartiles) | aim | load before | file, written by `python -m benchmarks.NAME` |
|---|---|---|---|---|
"""


def render(results: dict[str, Any], *, root: str = "") -> str:
    """The table.

    Args:
        results: File name without its suffix -> content.
        root: The way from the page to the root of the repository.

    Returns:
        Markdown.
    """
    lines = []
    for name, content in sorted(results.items()):
        load = content["load_average_before"]
        for what, target in content["targets"].items():
            spread = next(_spreads(content["results"], target["measured"]), "")
            cells = (
                f"{ABOUT.get(name, name)}: {what}",
                f"{target['measured']:.3g}{spread}",
                target["wanted"] + ("" if target["met"] else " (missed)"),
                f"{load:.1f}",
                f"[{name}.json]({root}results/benchmarks/{name}.json)",
            )
            lines.append(f"| {' | '.join(cells)} |\n")
    return HEAD + "".join(lines)


def render_departures(content: dict[str, Any]) -> str:
    """The table of departures of released code.

    Args:
        content: Of the file of the benchmark ``released_code``.

    Returns:
        Markdown; the sizes are the smallest and the largest over the shapes.
    """
    lines, last = ["| code | what it does | departs by | here |\n|---|---|---|---|\n"], None
    for row in content["results"]["departures"]:
        sizes = [f"{value:.2g}" for value in sorted(row["departs"].values())]
        size = " to ".join(dict.fromkeys([sizes[0], sizes[-1]])) if sizes else ""
        lines.append(f"| {'' if row['code'] == last else row['code']} | {row['does']} | {size} | {row['here']} |\n")
        last = row["code"]
    return "".join(lines)


def _spreads(results: Any, measured: float) -> Iterator[str]:
    """The quartiles of the ratio that has this value."""
    if isinstance(results, dict):
        if results.get("ratio") == measured and "ratio_lower_quartile" in results:
            yield f" ({results['ratio_lower_quartile']:.3g} to {results['ratio_upper_quartile']:.3g})"
        for value in results.values():
            yield from _spreads(value, measured)


def read() -> dict[str, Any]:
    """All results by name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*.json")}


def table_of(page: str) -> str:
    """The table that a page shows.

    Args:
        page: Its path from the root of the repository.

    Returns:
        Markdown.
    """
    results = read()
    return render({name: results[name] for name in PAGES[page]}, root="../" * page.count("/"))


if __name__ == "__main__":
    for page in PAGES:
        fill_file(ROOT / page, MARK, table_of(page))
    fill_file(ROOT / DEPARTURES_PAGE, DEPARTURES, render_departures(read()["released_code"]))
