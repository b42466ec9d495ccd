"""The direction of imports, and what importing the package costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Container, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import subspace_lab

PACKAGE = Path(subspace_lab.__file__).parent
# From top to bottom: a part imports what is below it. Parts side by side do not import each other.
LAYERS = (
    {"cli"}, {"studies"}, {"experiments", "report"}, {"training", "figures"}, {"analysis"}, {"capture", "optim"},
    {"runs"}, {"numerics"},
)  # fmt: skip
BELOW = {part: set().union(*LAYERS[place + 1 :]) for place, layer in enumerate(LAYERS) for part in layer}
BELOW["optim"] = set()  # it is of use without the rest
for measuring in ("analysis", "figures"):  # what is measured does not depend on how it was trained
    BELOW[measuring] -= {"optim"}
EVERYWHERE = {
    "_checks", "_text", "_version", "_extras", "_frozen", "_late", "_names", "_kinds", "_paths", "_reading", "_stacks",
}  # fmt: skip
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


def imported_modules(path: Path, known: Container[str]) -> set[str]:
    """The modules of the package that a file imports anywhere: in functions and for types too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in known else str(node.module) for name in full}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name in known}


def import_graph() -> dict[str, set[str]]:
    """Which module of the package imports which others; what belongs to the package itself is left out."""
    files = {module_name(path): path for path in PACKAGE.rglob("*.py")}
    return {name: imported_modules(path, files) - {name} for name, path in files.items()}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def test_no_modules_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter(import_graph()).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_the_walk_sees_imports_in_functions_for_types_and_of_modules(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "import a.b\nfrom a import c, name\nif TYPE_CHECKING:\n    from a.d import name\n"
        "def f():\n    from a.e.g import name\n    import os\n"
    )
    known = {"a", "a.b", "a.c", "a.d", "a.e.g", "a.h"}
    assert imported_modules(path, known) == known - {"a.h"}


def test_no_study_imports_another() -> None:
    pairs = set()
    for name, others in import_graph().items():
        for other in others:
            one, two = (module.split(".")[1:3] for module in (name, other))
            if one[:1] == two[:1] == ["studies"] and len(one) == len(two) == 2 and one != two:
                pairs.add((one[1], two[1]))
    assert not pairs


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
