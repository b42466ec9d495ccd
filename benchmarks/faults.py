"""Faults in files, signals and full disks: how many were tried, and how many ended otherwise than they may."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks._measure import publish_result
from tests.faults.outcomes import outcomes
from tests.faults.subjects import SLOW


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-file", type=int, default=30, help="faults tried on a file, at most all kinds of them")
    parser.add_argument("--files", type=int, default=9, help="files of a directory, at most")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--drawn", type=int, default=1, help="faults on a file of which figures and reports are drawn")
    parser.add_argument("--rounds", type=int, default=40, help="signals and full disks")
    chosen = parser.parse_args()
    kinds: Counter[str] = Counter()
    mutants: set[tuple[int, str]] = set()
    worse: list[str] = []
    how: dict[str, Any] = {"per_file": chosen.per_file, "files": chosen.files}
    plans = [{**how, "seed": seed} for seed in range(chosen.seeds)]
    if chosen.drawn:
        how = {"per_file": chosen.drawn, "files": 5, "subjects": tuple(SLOW), "slow": True}
        plans.append({**how, "seed": chosen.seeds})
    for plan in plans:
        with tempfile.TemporaryDirectory() as directory:
            for found in outcomes(Path(directory), **plan):
                mutants.add((plan["seed"], found.mutant))
                kinds[found.kind] += 1
                if not found.is_sound:
                    worse.append(f"{found.kind}: {found.mutant}, {found.opener}: {found.words[:100]}")
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "tests.faults.kill_harness", directory, str(chosen.rounds), "0"]
        kills = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    results = {"mutants": len(mutants), "openings": dict(sorted(kinds.items())), "kills": kills, "worse": worse}
    publish_result(results, {
        "mutants": (len(mutants), ">=", 200),
        "openings neither right nor refused in one line": (len(worse), "<=", 0),
        "signals and full disks after which all was sound": (kills["sound"], ">=", chosen.rounds),
    })  # fmt: skip


if __name__ == "__main__":
    main()
