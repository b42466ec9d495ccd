"""Medians of alternated repetitions, and results with the surroundings they were taken in."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from subspace_lab.runs import environment
from subspace_lab.runs.files import publish_json

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "benchmarks"
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_LOAD_BEFORE = os.getloadavg()[0]


def alternate(alternatives: Mapping[str, Callable[[], Any]], repeats: int, warm: int = 1) -> dict[str, list[float]]:
    """Time alternatives in turn, so that whatever else the machine does falls on all of them alike.

    Args:
        alternatives: What to time, by name.
        repeats: Rounds that count.
        warm: Rounds before them that do not.

    Returns:
        Seconds of every round by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    for round_ in range(warm + repeats):
        for name, work in alternatives.items():
            begin = time.perf_counter()
            work()
            if round_ >= warm:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def compare(seconds: Mapping[str, list[float]], slow: str, fast: str) -> dict[str, float]:
    """Medians in seconds of two alternatives, their ratio, and the quartiles of the ratios round by round."""
    low, _, high = statistics.quantiles([a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)], n=4)
    medians = {name: statistics.median(seconds[name]) for name in (slow, fast)}
    return {
        f"{slow}_s": medians[slow],
        f"{fast}_s": medians[fast],
        "ratio": medians[slow] / medians[fast],
        "ratio_lower_quartile": low,
        "ratio_upper_quartile": high,
    }


def require_one_thread() -> None:
    """Stop unless the linear algebra of torch and of numpy is held to one thread from the start."""
    if any(os.environ.get(name) != "1" for name in _THREADS):
        raise SystemExit(f"run it as: {' '.join(f'{name}=1' for name in _THREADS)} {_words()}")


def publish_result(results: Mapping[str, Any], targets: Mapping[str, tuple[float, str, float]]) -> None:
    """Write ``results/benchmarks/NAME.json`` and print how the targets are met.

    Args:
        results: JSON-ready numbers.
        targets: By name: the measured number, ``">="`` or ``"<="``, and the target.
    """
    met = {name: value >= bound if sign == ">=" else value <= bound for name, (value, sign, bound) in targets.items()}
    content = {
        "command": _command(),
        "results": results,
        "targets": {
            name: {"measured": value, "wanted": f"{sign} {bound}", "met": met[name]}
            for name, (value, sign, bound) in targets.items()
        },
        "load_average_before": _LOAD_BEFORE,
        "environment": environment(),
    }
    publish_json(RESULTS / f"{_name()}.json", content)
    for name, (value, sign, bound) in targets.items():
        print(f"{'ok  ' if met[name] else 'MISS'} {name}: {value:.4g} (wanted {sign} {bound:g})")


def _name() -> str:
    return Path(sys.argv[0]).stem


def _words() -> str:
    return " ".join(["python", "-m", f"benchmarks.{_name()}", *sys.argv[1:]])


def _command() -> str:
    """The command line that makes the result."""
    return " ".join([*(f"{name}={os.environ[name]}" for name in _THREADS if name in os.environ), _words()])
