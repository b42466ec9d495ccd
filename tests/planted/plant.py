"""Plant faults in the code behind the published numbers, and see that a test turns red for each.

``python tests/planted/plant.py [NAME ...]`` applies every ``NAME.patch`` beside this file (all of them by default) to
a copy of the tree in a temporary directory, runs the tests that the patch names, and prints the first that fails::

    nulls-not-rooted   tests/studies/grass_paper/test_claims.py::test_w1

It ends with 1 if a fault is not found or a patch no longer applies; ``--check`` only looks whether they apply. Above
the difference a patch says in a line what is wrong, and after ``Tests:`` which files of tests find it. Whoever changes
the code that a patch touches carries the fault over to the new code, by hand and ``git diff -U1``.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
_COPIED = ("subspace_lab", "tests", "figures", "results", "docs", "pyproject.toml", "setup.cfg", "README.md")


def patches() -> list[str]:
    """The names of all faults."""
    return sorted(file.stem for file in HERE.glob("*.patch"))


def named_tests(name: str) -> list[str]:
    """The files of tests that a patch names."""
    text = (HERE / f"{name}.patch").read_text(encoding="utf-8")
    return re.findall(r"^Tests: (.+)$", text, re.MULTILINE)[0].split()


def apply(name: str, tree: Path, *options: str) -> str:
    """Apply a patch to a tree, or with ``--check`` look whether it does; what is wrong, or nothing."""
    command = ["git", "apply", *options, str(HERE / f"{name}.patch")]
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tree.parent)}  # a tree of its own, wherever it lies
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True).stderr.strip()


def copy_tree(target: Path) -> None:
    """Copy what the tests need."""
    for name in _COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)


def first_red(tree: Path, tests: list[str]) -> str:
    """The first test that fails in a tree, or nothing."""
    command = [sys.executable, "-B", "-m", "pytest", "-x", "-rfE", "--tb=no", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if found := re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.MULTILINE):
        return found[1]
    if done.returncode:
        raise RuntimeError(f"{' '.join(tests)} cannot be run:\n{done.stdout}{done.stderr}")
    return ""


def plant(name: str, tree: Path) -> str:
    """Plant one fault, run its tests and take it out again; the red test, or nothing."""
    if wrong := apply(name, tree):
        raise RuntimeError(f"{name} does not apply: {wrong}")
    try:
        return first_red(tree, named_tests(name))
    finally:
        apply(name, tree, "--reverse")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which faults; all by default")
    parser.add_argument("--check", action="store_true", help="only look whether the patches apply")
    asked = parser.parse_args()
    names = asked.names or patches()
    if unknown := sorted(set(names) - set(patches())):
        parser.error(f"there is no fault {unknown[0]!r}; known: {', '.join(patches())}")
    if asked.check:
        stale = {name: wrong for name in names if (wrong := apply(name, ROOT, "--check"))}
        print("\n".join(f"{name} does not apply: {wrong}" for name, wrong in stale.items()) or "all of them apply")
        return 1 if stale else 0
    width, missed = max(map(len, names)), 0
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory)
        copy_tree(tree)
        if red := first_red(tree, sorted({test for name in names for test in named_tests(name)})):
            sys.exit(f"{red} is red without any fault")
        for name in names:
            red = plant(name, tree)
            missed += not red
            print(f"{name:{width}}  {red or 'NOT FOUND'}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
