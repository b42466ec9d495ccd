"""The direction of imports, and what importing the package costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import subspace_lab

PACKAGE = Path(subspace_lab.__file__).parent
# What each part may import of the package, besides itself and what is imported everywhere (see EVERYWHERE).
BELOW = {
    "numerics": set(),
    "optim": set(),
    "runs": {"numerics"},
    "capture": {"runs", "numerics"},
    "analysis": {"capture", "runs", "numerics"},
    "training": {"analysis", "capture", "optim", "runs", "numerics"},
    "figures": {"analysis", "training", "capture", "optim", "runs", "numerics"},
    "report": {"figures", "analysis", "training", "capture", "optim", "runs", "numerics"},
    "experiments": {"training", "analysis", "capture", "optim", "runs", "numerics"},
    "studies": {
        "experiments", "report", "figures", "analysis", "training", "capture", "optim", "runs", "numerics",
    },
    "cli": {
        "studies", "experiments", "report", "figures", "analysis", "training", "capture", "optim", "runs",
        "numerics",
    },
}  # fmt: skip
EVERYWHERE = {"_checks", "_text", "_version", "_extras", "_frozen", "_names", "_kinds", "_paths", "_reading", "_stacks"}
HEAVY = ("torch", "transformers", "pandas", "matplotlib", "datasets", "lightning", "scipy")


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0]


def imported_parts(path: Path) -> Iterator[tuple[int, str]]:
    """Line and part of every import from the package, wherever in the file it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import"
            of_package = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            of_package = [alias.name for alias in node.names]
        else:
            continue
        for name in of_package:
            package, _, rest = name.partition(".")
            if package == "subspace_lab" and rest:
                yield node.lineno, rest.split(".")[0]


def test_there_is_a_rule_for_every_part() -> None:
    assert {part_of(path) for path in modules()} == set(BELOW)


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_downward(path: Path) -> None:
    allowed = BELOW[part_of(path)] | {part_of(path)} | EVERYWHERE
    upward = [f"line {line}: {part}" for line, part in imported_parts(path) if part not in allowed]
    assert not upward


def test_the_parts_are_in_one_order() -> None:
    """What may be imported may in turn import only less: the rule has no cycles."""
    for part, below in BELOW.items():
        assert part not in below
        assert all(BELOW[other] < below for other in below)


@pytest.mark.parametrize(
    "module",
    [
        "subspace_lab",
        "subspace_lab.cli",
        "subspace_lab.studies",
        "subspace_lab.experiments",
        "subspace_lab.training",
    ],
)
def test_importing_is_cheap(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(sys.modules.keys() & set({HEAVY!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
