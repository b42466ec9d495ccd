"""What is installed: every package that is imported is declared and pinned, and every file is there."""

from __future__ import annotations

import ast
import configparser
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import subspace_lab

PACKAGE = Path(subspace_lab.__file__).parent
ROOT = PACKAGE.parent
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
OF_EXTRAS = {
    "lightning": "lightning",
    "transformers": "hf",
    "huggingface_hub": "hf",
    "tokenizers": "hf",
    "datasets": "hf",
    "gguf": "hf",
}


def requirements(text: str) -> dict[str, Requirement]:
    found = map(Requirement, filter(None, text.split("\n")))
    return {canonicalize_name(requirement.name): requirement for requirement in found}


INSTALLED = requirements(SETUP["options"]["install_requires"])
EXTRAS = {name: requirements(SETUP["options.extras_require"][name]) for name in SETUP["options.extras_require"]}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Top-level names of all imports in a file, and whether they are only for the type checker."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        yield from ((name.split(".")[0], id(node) in guarded) for name in names)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_every_import_is_declared(path: Path) -> None:
    for name, is_for_types in imports(path):
        if name in sys.stdlib_module_names or name == "subspace_lab":
            continue
        declared = EXTRAS[OF_EXTRAS[name]] if name in OF_EXTRAS else INSTALLED
        assert is_for_types or canonicalize_name(name) in declared, name


def test_the_extra_for_developers_holds_all_others() -> None:
    others = {name for extra, of_it in EXTRAS.items() if extra != "dev" for name in of_it}
    assert set(EXTRAS) == {"hf", "peft", "finetune", "lightning", "slurm", "notebooks", "bench", "dev"}
    assert others <= set(EXTRAS["dev"])


def test_everything_that_the_make_targets_install_is_pinned_within_its_range() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pinned = {canonicalize_name(name): version for name, version in pins.items()}
    missing, waiting, seen = [], [*INSTALLED.values(), *EXTRAS["dev"].values()], set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name not in pinned:
            missing.append(name)
        else:
            assert requirement.specifier.contains(pinned[name], prereleases=True), requirement
        if (name, *requirement.extras) in seen:
            continue
        seen.add((name, *requirement.extras))
        for line in metadata.requires(name) or []:
            needed = Requirement(line)
            wanted = ({"extra": extra} for extra in ("", *requirement.extras))
            if needed.marker is None or any(map(needed.marker.evaluate, wanted)):
                waiting.append(needed)
    assert not {name for name in missing if not re.match("setuptools|nvidia|triton", name)}
    (alone,) = re.findall(r"--no-deps ([^#\n]*)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert set(alone.split()) <= set(pinned)


def test_every_file_of_the_package_is_installed() -> None:
    patterns = SETUP["options.package_data"]["subspace_lab"].split()
    for path in PACKAGE.rglob("*"):
        if path.is_dir() or "__pycache__" in path.parts:
            continue
        assert (path.parent / "__init__.py").exists(), path
        name = path.relative_to(PACKAGE)
        assert name.suffix == ".py" or any(name.match(pattern) for pattern in patterns), path


def test_the_pages_name_the_oldest_versions() -> None:
    torch = re.search(r"^torch>=(.*)$", SETUP["options"]["install_requires"], re.MULTILINE)
    assert torch
    for path in (ROOT / "README.md", ROOT / "docs" / "getting-started.md"):
        page = path.read_text(encoding="utf-8")
        assert f"torch {torch[1]} or newer" in page
        assert f"Python {SETUP['options']['python_requires'].removeprefix('>=')} or newer" in page


def test_the_readme_names_the_extras() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"'\.\[(\w+)\]'", page)) == set(SETUP["options.extras_require"])
