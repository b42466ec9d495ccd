"""Wall time of ``subspace-lab --help`` in fresh processes, beside that of an empty Python."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks._measure import alternate, compare, publish_result


def run(*words: str) -> None:
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    script = Path(sys.executable).with_name("subspace-lab")
    work = {"help": lambda: run(str(script), "--help"), "python": lambda: run(sys.executable, "-c", "")}
    results = compare(alternate(work, arguments.repeats, warm=2), "help", "python")
    publish_result(results, {"seconds": (results["help_s"], "<=", 0.5)})


if __name__ == "__main__":
    main()
